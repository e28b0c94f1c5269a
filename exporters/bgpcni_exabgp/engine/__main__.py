"""Starts ExaBGP with our command: `python -m bgpcni_exabgp.engine CONFIGURATION [CLAIM] [--by=WHO]`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from importlib.metadata import version
from pathlib import Path

from bgpcni_exabgp.engine.claims import Claims


def unknown() -> str:
    """Why nothing in this ExaBGP must be replaced; "" if it is one that we know."""
    try:
        from bgpcni_exabgp.engine.check import Mismatch, check

        try:
            check()
        except Mismatch as mismatch:
            return str(mismatch)
        importlib.import_module("bgpcni_exabgp.engine.patches")  # imports what it replaces
    except (AttributeError, TypeError, ImportError, LookupError, ValueError) as error:
        return f"ExaBGP {version('exabgp')} is not one whose inside we know: {error}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser("python -m bgpcni_exabgp.engine")
    parser.add_argument("configuration", type=Path)
    parser.add_argument("claim", type=Path, nargs="?", help="a second file to lock, where nobody wipes it")
    parser.add_argument("--by", default="agent", help="who starts it: agent or speaker")
    arguments = parser.parse_args()
    path: Path = arguments.configuration
    os.umask(0o077)
    why = unknown()
    claims = Claims(path, arguments.claim, why, arguments.by)
    if not claims.take():
        sys.stderr.write(f"bgpcni: another one runs on {path}\n")
        return 4
    if why:
        sys.stderr.write(f"bgpcni: {why}: it runs unchanged, with its text commands only\n")
        with contextlib.suppress(ImportError, AttributeError, TypeError, LookupError):  # else it refuses `ipv4 rtc`
            importlib.import_module("bgpcni_exabgp.engine.rtc").accept_rtc()
    else:
        from bgpcni_exabgp.engine.command import Engine
        from bgpcni_exabgp.engine.patches import install
        from bgpcni_exabgp.engine.watch import News

        install(Engine(path, News()), claims.keep)
    sys.argv = ["exabgp", "server", str(path)]
    from exabgp.application.main import main as exabgp_main

    return int(exabgp_main() or 0)


if __name__ == "__main__":
    sys.exit(main())
