"""Takes the pictures of the documentation: `python -m integration.screenshots DIR`, as root."""

from __future__ import annotations

import sys
from pathlib import Path

from integration.glass import Browser, LookingGlass
from integration.lab import Lab
from integration.seen import add, announced, dual, ready

PODS = ("web-5d4f", "web-7c9b", "cart-0", "mail-6f88")
ID = "7f3a9c41d2e0b865"


def main(folder: Path) -> None:
    with Lab() as lab:
        frr, node = ready(lab)
        blue = dual(node, "blue", bridge="br-blue", bgp={"family": "evpn", "vni": 5001})
        conf = dual(node)
        for number, pod in enumerate(PODS):
            args = f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod}"
            answer = add(node, f"{number}{ID}", lab.container(f"p{number}"), conf, args=args)
            announced(frr, node, answer)
        for number, pod in enumerate(("db-0", "db-1"), len(PODS)):
            args = f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod}"
            add(node, f"{number}{ID}", lab.container(f"p{number}"), blue, args=args)
        LookingGlass(lab, node).start()
        browser = Browser(lab, node, size=(1280, 640))

        def picture(path: str, name: str, *words: str) -> None:
            browser.open(path)
            browser.shows(*words)
            browser.picture(folder / f"{name}.png")

        picture("/", "overview", "All is well")
        node.namespace.sysctl(net__ipv4__ip_forward=0)
        picture(f"/attachments/0{ID}", "broken", "Set the sysctl")
        node.namespace.sysctl(net__ipv4__ip_forward=1)
        browser.dark(True)
        picture("/map", "map", "VNI 5001")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
