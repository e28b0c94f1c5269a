"""Why a session ended, in words: the NOTIFICATION codes of BGP, spelled out. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

ERRORS = {
    1: ("Message Header Error", {1: "Connection Not Synchronized", 2: "Bad Message Length", 3: "Bad Message Type"}),
    2: (
        "OPEN Message Error",
        {
            1: "Unsupported Version Number",
            2: "Bad Peer AS",
            3: "Bad BGP Identifier",
            4: "Unsupported Optional Parameter",
            6: "Unacceptable Hold Time",
            7: "Unsupported Capability",
            11: "Role Mismatch",
        },
    ),
    3: (
        "UPDATE Message Error",
        {
            1: "Malformed Attribute List",
            2: "Unrecognized Well-known Attribute",
            3: "Missing Well-known Attribute",
            4: "Attribute Flags Error",
            5: "Attribute Length Error",
            6: "Invalid ORIGIN Attribute",
            8: "Invalid NEXT_HOP Attribute",
            9: "Optional Attribute Error",
            10: "Invalid Network Field",
            11: "Malformed AS_PATH",
        },
    ),
    4: ("Hold Timer Expired", {}),
    5: (
        "Finite State Machine Error",
        {
            1: "Unexpected Message in OpenSent State",
            2: "Unexpected Message in OpenConfirm State",
            3: "Unexpected Message in Established State",
        },
    ),
    6: (
        "Cease",
        {
            1: "Maximum Number of Prefixes Reached",
            2: "Administrative Shutdown",
            3: "Peer De-configured",
            4: "Administrative Reset",
            5: "Connection Rejected",
            6: "Other Configuration Change",
            7: "Connection Collision Resolution",
            8: "Out of Resources",
            9: "Hard Reset",
            10: "BFD Down",
        },
    ),
    7: ("ROUTE-REFRESH Message Error", {1: "Invalid Message Length"}),
}
"""NOTIFICATION codes, RFC 4271 section 4.5, RFC 4486, 6608, 7313, 8538, 9234 and 9384."""

_NOTIFICATION = re.compile(r"notification (received|sent) \((\d+),(\d+)\)")


@dataclass(frozen=True, slots=True)
class Fall:
    """Why a session ended. `notified`: by a NOTIFICATION, sent or received. `our_update`: the peer says that one of our
    UPDATEs is wrong (NOTIFICATION 3/x)."""

    words: str
    notified: bool = False
    our_update: bool = False


def explain(reason: str, ours: int | None = None, expected: int = 0, told: int = 0) -> Fall:
    """What ExaBGP's text `reason` means. `ours`: our AS. `expected`: the peer's AS in agent.toml. `told`: the AS in the
    peer's OPEN, 0 if it is not known."""
    found = _NOTIFICATION.search(reason)
    if found is None:
        return Fall(reason or "the session ended")
    code, subcode = int(found[2]), int(found[3])
    name, subnames = ERRORS.get(code, (f"code {code}", {}))
    detail = subnames.get(subcode)
    words = f"NOTIFICATION {code}/{subcode} {found[1]}: {name}" + (f", {detail}" if detail else "")
    if (code, subcode) == (2, 2):
        if found[1] == "received":
            words += f": the peer expects another AS than ours, {ours}" if ours else ""
        elif told:
            words += f": the peer says that it has AS {told}, agent.toml says {expected}"
    return Fall(words, True, found[1] == "received" and code == 3)
