"""The reference of the commands, made from the command line itself: manual pages, and docs/commands.md.

`python -m bgpcni.operator.manual DIR` writes the manual pages to DIR; without DIR it prints docs/commands.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from bgpcni import __version__
from bgpcni.operator.cli import main

STATUS = (
    ("0", "The command was carried out, and all is well."),
    ("1", "It could not be carried out, or what it shows is not in order; the help of each command says what counts."),
    ("2", "Wrong usage."),
    ("130", "It was interrupted: events, and every command with --watch."),
)
ENVIRONMENT = (
    ("BGPCNI_SOCKET", "The agent's socket, unless --socket names one."),
    ("BGPCNI_RUN_DIR", "The folder run_dir, for bgpcni speaker, and for a node without an agent."),
    ("COLUMNS", "The width for which tables are made, instead of the terminal's."),
    ("NO_COLOR", "If it is set to anything, no colours are used."),
)
FILES = (
    ("/etc/bgpcni/agent.toml", "The configuration of the agent."),
    ("/run/bgpcni/agent.sock", "The agent's socket."),
)


class Page(NamedTuple):
    """What is known of one command. `name`: `bgpcni routes`. `options`: each with its help."""

    name: str
    summary: str
    usage: str
    description: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...] = ()


def pages() -> Iterator[Page]:
    """`bgpcni` itself, then each of its commands by name, and each of theirs."""
    yield from _pages(main, click.Context(main, info_name="bgpcni"))


def _pages(command: click.Command, context: click.Context) -> Iterator[Page]:
    group = command.commands if isinstance(command, click.Group) else {}
    inner = sorted((name, each) for name, each in group.items() if not each.hidden)
    yield _page(command, context)._replace(commands=tuple((name, _summary(each)) for name, each in inner))
    for name, each in inner:
        yield from _pages(each, click.Context(each, info_name=name, parent=context))


def _page(command: click.Command, context: click.Context) -> Page:
    records = [record for each in command.get_params(context) if (record := each.get_help_record(context)) is not None]
    paragraphs = tuple(" ".join(each.split()) for each in (command.help or "").split("\n\n") if each.strip())
    return Page(
        name=context.command_path,
        summary=_summary(command),
        usage=" ".join([context.command_path, *command.collect_usage_pieces(context)]),
        description=paragraphs,
        options=tuple((flags, " ".join(text.split())) for flags, text in records),
    )


def _summary(command: click.Command) -> str:
    """The first sentence of its help."""
    first = " ".join((command.help or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.?])\s", first)[0].rstrip(".")


# ---------------------------------------------------------------- manual pages


def roff(page: Page) -> str:
    """A manual page in the macros of man(7)."""
    title = page.name.replace(" ", "-")
    lines = [
        f'.TH "{_roff(title.upper())}" 1 "" "bgpcni {_roff(__version__)}" "bgpcni"',
        ".SH NAME", f"{_roff(title)} \\- {_roff(page.summary)}",
        ".SH SYNOPSIS", f".B {_roff(page.name)}", _roff(page.usage.removeprefix(page.name).strip()),
        ".SH DESCRIPTION",
    ]  # fmt: skip
    for number, text in enumerate(page.description):
        lines += ([".PP"] if number else []) + [_roff(text)]
    lines += _tagged("OPTIONS", page.options) + _tagged("COMMANDS", page.commands)
    lines += _tagged("EXIT STATUS", STATUS) + _tagged("ENVIRONMENT", ENVIRONMENT) + _tagged("FILES", FILES)
    others = [each for each in ("bgpcni", *(f"{title}-{name}" for name, _ in page.commands)) if each != title]
    lines += [".SH SEE ALSO", ",\n".join(f".BR {_roff(each)} (1)" for each in others).replace(" (1),", " (1),")]
    return "\n".join(lines) + "\n"


def _tagged(title: str, rows: tuple[tuple[str, str], ...]) -> list[str]:
    lines = [f".SH {title}"] if rows else []
    for tag, text in rows:
        lines += [".TP", f".B {_roff(tag)}", _roff(text)]
    return lines


def _roff(text: str) -> str:
    """Text as it is, whatever it contains."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    escaped = "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in escaped)
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped


def write(folder: Path) -> list[Path]:
    """Write every page into this folder; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for page in pages():
        file = folder / f"{page.name.replace(' ', '-')}.1"
        file.write_text(roff(page))
        written.append(file)
    return written


# ---------------------------------------------------------------- docs/commands.md


def markdown() -> str:
    """docs/commands.md."""
    first, *others = pages()
    text = [
        "# Commands",
        "This page is made from the command line itself (`python -m bgpcni.operator.manual`), as the manual pages "
        "`bgpcni*.1` are. The JSON that `--json` prints is in [JSON documents](reference/json.md).",
        _table(("command", "does"), [(f"[{name}](#bgpcni-{name})", words) for name, words in first.commands]),
        _table(("exit code", "means"), STATUS),
        _table(("variable", "is"), [(f"`{name}`", words) for name, words in ENVIRONMENT]),
    ]
    for page in others:
        text += [f"## {page.name}", "```\n" + page.usage + "\n```", *map(_marked, page.description)]
        if page.options:
            text.append(_table(("option", "does"), [(f"`{flags}`", words) for flags, words in page.options]))
    return "\n\n".join(text) + "\n"


def _table(head: tuple[str, str], rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> str:
    cells = [head, ("---", "---"), *((left, _marked(right)) for left, right in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def _marked(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write(Path(sys.argv[1]))
    else:
        sys.stdout.write(markdown())
