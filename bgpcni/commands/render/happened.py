"""The text of `events`."""

from __future__ import annotations

from bgpcni.commands import Document


def events(document: Document) -> str:
    """One line for each event, after a line about those that came too fast for this reader."""
    lines = [f"{document['missed']} events came and went before they were read"] if document["missed"] else []
    lines += [
        f"{event['time']}  {'warning: ' if event['level'] == 'warning' else ''}{event['text']}"
        for event in document["events"]
    ]
    return "".join(f"{line}\n" for line in lines)
