"""The text of `peers`."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.render.tables import table


def peers(document: Document) -> str:
    return table(
        ("PEER", "AS", "EXPORTER", "STATE", "SINCE", "SENT", "RECEIVED", "FAMILIES", "LAST ERROR"),
        [
            (p["address"], p["asn"], p["exporter"], p["state"], p["since"], p["sent"], p["received"],
             ",".join(p["families"]), p["lastError"])
            for p in document["peers"]
        ],
    )  # fmt: skip
