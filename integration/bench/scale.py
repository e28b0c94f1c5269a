"""ADD and DEL while 0, 1,000 and 10,000 attachments exist: records, leases and announcements made by a generator.

The generated attachments are chained ones without a root-side link (a bridge has 1,023 ports): everything that an
ADD could be slowed by is there but the links.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bgpcni.kernel.namespace import boot_id
from bgpcni.model import Address, Attachment, Bgp, ExporterUse, State
from bgpcni.store import Store
from integration.bench import sections
from integration.bench.world import World
from integration.lab import Lab, until

SIZES = (0, 1000, 10_000)


def populate(data_dir: Path, run_dir: Path, leases: Path, count: int) -> None:
    """`count` attachments of network `crowd`, each announced as a /32 of 10.64.0.0/10."""
    store = Store(data_dir, run_dir)
    folder = leases / "crowd"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        address = f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        (folder / address).write_text(f"crowd-{number}\r\neth0")
        attachment = Attachment(
            boot_id=boot_id(),
            network="crowd",
            container_id=f"crowd-{number}",
            ifname="eth0",
            netns="/nowhere",
            chained=True,
            mac=f"02:00:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
            addresses=(Address(address=f"{address}/32"),),
            bgp=Bgp(),
            exporters=(ExporterUse(name="exabgp", type="exabgp"),),
            since="2026-01-01T00:00:00Z",
        )
        store.put(State.UP, attachment)
    store.close()


def run(count: int) -> dict[str, Any]:
    """`count` ADDs and DELs at each size; the ratio of each size's median to that at 0."""
    found: dict[str, Any] = {}
    series: dict[int, list[float]] = {}
    for size in SIZES:
        with Lab() as lab:
            world = World(lab, before=lambda node, size=size: populate(  # type: ignore[misc]
                node.data_dir, node.run_dir, node.leases, size))  # fmt: skip
            until(lambda world=world, size=size: world.frr.received(world.node.address) == size,  # type: ignore[misc]
                  f"{size} routes at FRR", seconds=120)  # fmt: skip
            network = world.network()
            adds: list[float] = []
            deletes: list[float] = []
            for start in range(0, count, sections.ROUND):
                spaces = world.containers(sections.ROUND)[: count - start]
                for command, values in (("ADD", adds), ("DEL", deletes)):
                    waves = [[world.call(command, network, f"s-{i}", space)] for i, space in enumerate(spaces)]
                    values += [answer["calls"][0]["seconds"] * 1000 for answer in world.run(waves)]
            series[size] = adds
            found[str(size)] = {
                "ADD": sections.summary(adds),
                "DEL": sections.summary(deletes),
                "processes": sections.processes(world.node),
            }
    found["ADD ratios"] = {str(size): sections.ratio(series[size], series[0]) for size in SIZES if size}
    return found
