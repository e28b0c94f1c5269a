"""Which branches of a pure module were taken: both ways of every conditional jump of its byte code."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Hashable, Iterator
from itertools import pairwise
from types import CodeType, FrameType, ModuleType
from typing import Any

_Way = tuple[CodeType, int, int]
"""Code, and the offsets of a jump and of what comes after it."""


class Branches:
    """Counts what `watched` functions take; nothing is traced outside of them."""

    def __init__(self, module: ModuleType, entry: str) -> None:
        self._codes = set(_codes_of(module, getattr(module, entry).__code__))
        self.wanted = {way for code in self._codes for way in _ways(code)}
        self.taken: dict[_Way, int] = {}
        self._last: dict[FrameType, int] = {}

    def watched(self, function: Callable[..., Any], kind: Callable[..., Hashable]) -> Callable[..., Any]:
        """`kind` of the arguments: those of one kind take the same ways, and are looked at once."""
        known = set()

        def watching(*args: Any) -> Any:
            if (this := kind(*args)) in known:
                return function(*args)
            known.add(this)
            sys.settrace(self._enter)
            try:
                return function(*args)
            finally:
                sys.settrace(None)

        return watching

    def missing(self) -> list[str]:
        """The ways that were not taken, in words."""
        return sorted(
            f"{code.co_name}, line {_line(code, jump)}: never on to line {_line(code, after)}"
            for code, jump, after in self.wanted
            if (code, jump, after) not in self.taken
        )

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code not in self._codes:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        last = -1

        def step(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal last
            if event == "opcode":
                way = (frame.f_code, last, frame.f_lasti)
                if way in self.wanted:
                    self.taken[way] = self.taken.get(way, 0) + 1
                last = frame.f_lasti
            return step

        return step


def _codes_of(module: ModuleType, entry: CodeType) -> Iterator[CodeType]:
    """What the module's own functions are, but for those that dataclasses and enumerations are made of."""
    found = [
        value.__code__
        for value in vars(module).values()
        if hasattr(value, "__code__") and value.__code__.co_filename == entry.co_filename
    ]
    while found:
        code = found.pop()
        yield code
        found += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _ways(code: CodeType) -> Iterator[_Way]:
    instructions = list(dis.get_instructions(code))
    for this, after in pairwise(instructions):
        if "_IF_" in this.opname or this.opname == "FOR_ITER":
            yield code, this.offset, after.offset
            yield code, this.offset, int(this.argval)


def _line(code: CodeType, offset: int) -> int | None:
    return next((line for start, end, line in code.co_lines() if start <= offset < end), None)
