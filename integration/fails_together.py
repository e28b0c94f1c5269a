"""`python -m integration.fails_together`: two ADDs that fail on a bridge that neither found, step by step together.

Runs in a node's network namespace, without an agent. Each ADD is a thread that stops where a step of the product ends,
until the other has come as far as the chosen order asks. Arguments: the order, the network configuration, the two
containers' namespaces. Prints what each ADD answered.

Orders: `maker first`: who made the bridge ends before the other goes on; `other first`; `at once`: both are about to
drop their records.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from bgpcni import plugin, steps
from bgpcni.handler import Call, Reply

SECONDS = 300.0
mine = threading.local()
bridged = {name: threading.Event() for name in ("maker", "other")}
ended = {name: threading.Event() for name in ("maker", "other")}
releasing = threading.Barrier(2)


def wait(event: threading.Event) -> None:
    if not event.wait(SECONDS):
        os._exit(3)


def main(order: str, conf: str, *spaces: str) -> None:
    def observer(step: str, seconds: float) -> None:
        name = getattr(mine, "name", None)
        if name is None:
            return
        other = {"maker": "other", "other": "maker"}[name]
        if step == "bridge":
            bridged[name].set()
            wait(bridged[other])
            if order == f"{other} first":
                wait(ended[other])
        elif step == "release" and order == "at once":
            releasing.wait(SECONDS)

    def add(name: str, space: str) -> Reply:
        mine.name = name
        if name == "other":
            wait(bridged["maker"])
        variables = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": name, "CNI_NETNS": space, "CNI_IFNAME": "eth0"}
        try:
            return plugin.answer(Call(variables | {"CNI_PATH": "/nowhere"}, conf.encode()), os.environ)
        finally:
            ended[name].set()

    steps.observe(observer)
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(add, ("maker", "other"), spaces))
    print(json.dumps([json.loads(reply.stdout) for reply in replies]))


if __name__ == "__main__":
    main(*sys.argv[1:])
