"""Judges the health checks of services: when a shared address is announced, and when it is withdrawn. Pure.

`Checks` is how a node asks for the verdicts; the agent's `health` fulfils it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bgpcni.model import Attachment, AttachmentKey, Health


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the results so far say. `passing`: the address is announced. `count`: how many results in a row were like
    the last one, which was bad for the reason `fault`, or good (""). `since`: when the first of them came (monotonic
    seconds)."""

    passing: bool
    count: int = 0
    fault: str = ""
    since: float = 0.0


def judged(before: Verdict, check: Health, fault: str, now: float) -> Verdict:
    """The verdict after one more result: `fault` says why it is bad, "" that it is good."""
    same = before.count > 0 and bool(before.fault) == bool(fault)
    count = before.count + 1 if same else 1
    passing = before.passing
    if count >= (check.fall if fault else check.rise):
        passing = not fault
    return Verdict(passing, count, fault, before.since if same else now)


def words(verdict: Verdict, check: Health, now: float) -> str:
    """How it stands, for operators: `health check failed: connection refused, 3 times, since 12 s`."""
    times = f"{verdict.count} time{'s' * (verdict.count != 1)}, since {max(0.0, now - verdict.since):.0f} s"
    if not verdict.count:
        return "health check has no result yet"
    if verdict.fault:
        return f"health check failed: {verdict.fault}, {times}"
    if not verdict.passing:
        return f"health check passed {verdict.count} of {check.rise} times"
    return f"health check passed {times}"


class Checks(Protocol):
    """The health checks of a node's attachments. They nudge an attachment when `passing` would say something else."""

    def passing(self, attachment: Attachment) -> bool:
        """Whether its shared addresses are to be announced now. What its record says, while there is no result."""
        ...

    def words(self, attachment: Attachment) -> str:
        """How its check stands, for operators; "" if it has none."""
        ...

    def counts(self) -> tuple[int, int]:
        """How many services are asked that pass, and how many that fail."""
        ...

    def remember(self, attachment: Attachment) -> None:
        """Check it from now on. Repeated, nothing changes."""
        ...

    def forget(self, key: AttachmentKey) -> None:
        """It ends."""
        ...


class NoChecks:
    """A call without an agent checks nothing."""

    def passing(self, attachment: Attachment) -> bool:
        return attachment.anycast is not None and attachment.anycast.passing

    def words(self, attachment: Attachment) -> str:
        return ""

    def counts(self) -> tuple[int, int]:
        return 0, 0

    def remember(self, attachment: Attachment) -> None:
        pass

    def forget(self, key: AttachmentKey) -> None:
        pass
