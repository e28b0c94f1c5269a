"""What a cause is: a judgement over the snapshot, with the words for the operator. Pure.

    @cause(symptom="…", why="…", remedy="sysctl -w {name}=1", fine="…")
    def forwarding_off(seen: Snapshot) -> Judgement:
        if …:
            yield error("sysctl {name} is 0", name="net.ipv4.ip_forward")

The function's name, with `-` for `_`, is the code. A cause that finds nothing is reported as well, with `fine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bgpcni.doctor.facts import Snapshot, Unknown

Level = Literal["ok", "warning", "error"]


class Found(NamedTuple):
    """One thing that a judgement found. `words` fill the braces of the cause's remedy."""

    level: Level
    text: str
    words: Mapping[str, str]


Judgement = Iterator[Found]


class Finding(NamedTuple):
    """One line for the operator. `remedy` is empty where there is nothing to do."""

    code: str
    level: Level
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Cause:
    """`symptom`: what an operator sees. `why`: what is wrong then. `remedy`: what to type against it."""

    code: str
    symptom: str
    why: str
    remedy: str
    fine: str
    judge: Callable[[Snapshot], Judgement]

    def findings(self, seen: Snapshot) -> Iterator[Finding]:
        """What is found of this cause; one that says `fine` where nothing is. It never raises."""
        count = 0
        try:
            for count, found in enumerate(self.judge(seen), 1):  # noqa: B007 - it is used below
                remedy = self.remedy.format_map(found.words) if found.level != "ok" else ""
                yield Finding(self.code, found.level, found.text, remedy)
        except Unknown as unknown:
            yield Finding(self.code, "warning", f"not known: {unknown}", "run `bgpcni doctor` on the node, as root")
        except Exception as error:  # noqa: BLE001 - a defect in one judgement must not hide the others
            text = f"cannot be judged because of a defect: {type(error).__name__}: {error}"
            yield Finding(self.code, "warning", text, "report it, with the file that `bgpcni diags` makes")
        else:
            if not count:
                yield Finding(self.code, "ok", self.fine, "")

    @property
    def documented_remedy(self) -> str:
        """The remedy with the names of what it is about in capitals."""
        return self.remedy.format_map(_Capitals())


class _Capitals(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return key.upper()


def cause(*, symptom: str, why: str, remedy: str, fine: str) -> Callable[[Callable[[Snapshot], Judgement]], Cause]:
    """Make a cause of a judgement."""

    def make(judge: Callable[[Snapshot], Judgement]) -> Cause:
        return Cause(judge.__name__.replace("_", "-"), symptom, why, remedy, fine, judge)

    return make


def ok(text: str) -> Found:
    return Found("ok", text, {})


def warning(text: str, **words: object) -> Found:
    return Found("warning", text, {key: str(word) for key, word in words.items()})


def error(text: str, **words: object) -> Found:
    return Found("error", text, {key: str(word) for key, word in words.items()})
