"""The tutorials of the documentation, read from their Markdown and run as a reader would type them.

A block `console` has commands behind `# `, or `> ` where a command goes on, each followed by what it prints. `…` stands
for any text within a line; a line that is only `…` stands for any number of lines. A block with `title="/a/path"` is
that file's content. All other blocks are only shown. Commands that only look are repeated until they print what the
page says, for what they look at needs a moment to come true.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bgpcni.testing.patience import SECONDS
from integration.lab import Lab, until
from integration.lab.node import BGPCNI
from integration.runtimes.machine import SETUP, Machine

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)(?P=fence) *$", re.M | re.S
)
_LOOKS = re.compile(
    r"\b(vtysh|ping|bridge fdb"
    r"|bgpcni (status|routes|peers|attachments|explain|nodes|get)"
    r"|ip( -\S+| -n \S+)* (route|link|address|neigh) show)\b"
)
_WILD = "…"


@dataclass(frozen=True, slots=True)
class File:
    """A file that the reader is told to write."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """What the reader types, and what the page says that it prints. `line`: where it is in the page."""

    text: str
    prints: tuple[str, ...]
    line: int

    @property
    def looks(self) -> bool:
        """Whether it only reads, so that it may be repeated."""
        return _LOOKS.search(self.text) is not None

    def fits(self, output: str) -> bool:
        """Whether this output is what the page shows."""
        return (
            re.fullmatch(_pattern(self.prints), "".join(f"{line.rstrip()}\n" for line in output.splitlines()))
            is not None
        )


def read(page: str) -> Iterator[File | Command]:
    """The steps of a page, in order. Raises ValueError for a block of commands that does not begin with one."""
    for block in _FENCE.finditer(page):
        indent = block["indent"]
        lines = [line.removeprefix(indent) for line in block["body"].splitlines()]
        info = block["info"].strip()
        if title := re.search(r'title="(/[^"]+)"', info):
            yield File(Path(title[1]), "".join(f"{line}\n" for line in lines))
        elif info.split(" ")[0] == "console":
            first = page[: block.start()].count("\n") + 2
            yield from _commands(lines, first)


def _commands(lines: list[str], first: int) -> Iterator[Command]:
    typed: list[str] = []
    prints: list[str] = []
    begun = first
    for number, line in enumerate(lines, first):
        if line.startswith("# "):
            if typed:
                yield Command("\n".join(typed), tuple(prints), begun)
            typed, prints, begun = [line[2:]], [], number
        elif typed and line.startswith("> ") and not prints:
            typed.append(line[2:])
        elif typed:
            prints.append(line.rstrip())
        else:
            raise ValueError(f"line {number}: a block of commands begins with '# ', not with {line!r}")
    if typed:
        yield Command("\n".join(typed), tuple(prints), begun)


def _pattern(lines: tuple[str, ...]) -> str:
    parts = []
    for line in lines:
        if line.strip() == _WILD:
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(r".*?".join(re.escape(part) for part in line.split(_WILD)) + r"\n")
    return "".join(parts)


def reading(lab: Lab, folder: Path) -> Machine:
    """A machine for somebody who reads. FRR writes below /var/tmp, whatever it is told."""
    return Machine(lab.namespace("reader"), folder, f"mount -t tmpfs tmpfs /var/tmp\n{SETUP}")


class Reader:
    """Somebody who follows a page on a machine of his own, in one shell."""

    def __init__(self, machine: Machine, *programs: Path) -> None:
        """`programs`: folders that are searched before the usual ones."""
        path = ":".join([*map(str, programs), str(BGPCNI.parent), os.environ["PATH"]])
        environment = {key: os.environ[key] for key in ("LANG", "HOME") if key in os.environ} | {"PATH": path}
        self._machine = machine
        self._shell = subprocess.Popen(
            machine.command("bash", "--norc", "--noprofile"), env=environment, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def follow(self, page: str) -> Iterator[tuple[Command, str]]:
        """Do what the page says, in order: each command with what it printed.

        Raises AssertionError for output that is not what the page shows.
        """
        for step in read(page):
            if isinstance(step, File):
                path = self._machine.inside(step.path)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step.text)
            elif step.looks:
                yield step, until(lambda step=step: [self._try(step)], "what the page shows")[0]  # type: ignore[misc]
            else:
                yield step, self._try(step)

    def _try(self, step: Command) -> str:
        output = self.type(step.text)
        shown = "\n".join(step.prints)
        assert step.fits(output), f"line {step.line}: # {step.text}\nshould print\n{shown}\nand this came:\n{output}"
        return output

    def type(self, text: str) -> str:
        """What a command prints, on both streams."""
        assert self._shell.stdin
        assert self._shell.stdout
        end = "the-end-of-this-command"
        self._shell.stdin.write(f"{text}\nprintf '\\n{end}\\n'\n")
        lines: list[str] = []
        for line in self._shell.stdout:
            if line == f"{end}\n":
                found = "".join(lines)
                return found.removesuffix("\n")
            lines.append(line)
        raise AssertionError(f"the shell ended at: {text}\n{''.join(lines)}")

    def close(self) -> None:
        """End the shell; what it began in the background ends with the machine."""
        self._shell.kill()
        self._shell.wait(SECONDS)
