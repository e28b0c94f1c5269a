"""The text of `peers`."""

from __future__ import annotations

from bgpcni.commands import Document
from bgpcni.commands.render.tables import ago, since, table


def peers(document: Document) -> str:
    """A line for each; if the document is about one peer, all that is known of it."""
    if any("changes" in peer for peer in document["peers"]):
        return "\n".join(map(_one, document["peers"]))
    return table(
        ("PEER", "AS", "EXPORTER", "STATE", "SINCE", "SENT", "RECEIVED", "FLAPS", "FAMILIES", "LAST ERROR"),
        [
            (p["address"], p["asn"], p["exporter"], p["state"], ago(p["since"]), p["sent"], p["received"], p["flaps"],
             ",".join(p["families"]), p["lastError"])
            for p in document["peers"]
        ],
    )  # fmt: skip


def _one(peer: Document) -> str:
    lines = [
        ("exporter", peer["exporter"]),
        ("state", f"{peer['state']} {since(peer['since'])}" if peer["since"] else peer["state"]),
        ("last error", peer["lastError"]),
        ("flaps", f"{peer['flaps']} since the agent started"),
        ("local", " AS ".join(str(peer[key]) for key in ("localAddress", "localASN") if peer.get(key))),
        ("AS in its OPEN", peer.get("toldASN")),
        ("families", ", ".join(peer["families"]) or "none negotiated"),
        ("configured", ", ".join(peer.get("configuredFamilies", ()))),
        ("capabilities", _capabilities(peer.get("capabilities", {}))),
        ("hold time", f"{peer['holdTime']} s" if "holdTime" in peer else ""),
        ("graceful restart", _graceful(peer)),
        ("routes", f"{peer['sent']} sent, {peer['received']} received" + _maximum(peer)),
        ("messages sent", _messages(peer, "sent")),
        ("received", _messages(peer, "received")),
        ("password", "TCP MD5" if peer.get("authenticated") else ""),
        ("TTL security", "on" if peer.get("ttlSecurity") else ""),
        ("multihop", peer.get("multihop")),
    ]
    text = [f"peer {peer['address']} AS {peer['asn']}"]
    text += [f"  {name + ':':<18} {value}" for name, value in lines if value not in (None, "")]
    text += [f"  {ago(change['time'])}: {_change(change)}" for change in reversed(peer["changes"])]
    return "\n".join(text) + "\n"


def _capabilities(negotiated: Document) -> str:
    words = (("fourOctetASN", "4-octet AS"), ("routeRefresh", "route refresh"))
    return ", ".join(name for key, name in words if negotiated.get(key))


def _graceful(peer: Document) -> str:
    here = f"{peer['gracefulRestart']} s here" if peer.get("gracefulRestart") else ""
    if "capabilities" not in peer:
        return here
    there = ", ".join(peer["capabilities"]["gracefulRestart"]) or "no family"
    return f"{here or 'not here'}; at the peer for {there}"


def _messages(peer: Document, way: str) -> str:
    """How many of each type, those of which there was one at least."""
    return ", ".join(f"{count} {name}" for name, count in peer.get("messages", {}).get(way, {}).items() if count)


def _maximum(peer: Document) -> str:
    return f" (at most {peer['maximumPrefix']})" if peer.get("maximumPrefix") else ""


def _change(change: Document) -> str:
    words = "up" if change["kind"] == "session-up" else "down"
    return f"{words}: {change['detail']}" if change["detail"] else words


def reset_peer(document: Document) -> str:
    how = "exchanges all routes again" if document["soft"] else "was ended, and comes up anew"
    return "".join(f"the session of {name} with {document['peer']} {how}\n" for name in document["exporters"])
