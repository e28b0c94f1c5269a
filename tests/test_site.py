"""The documentation: it can be built, every link in it leads somewhere, and a reader's browser asks no other host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from integration.tutorials import Command, File, read

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. mkdocs refuses a page that the menu lacks, and a link or an anchor that leads nowhere."""
    pytest.importorskip("material", reason="needs mkdocs-material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    """No script, style sheet, picture or font of another host."""
    loads = re.compile(r"""<(?:script|img|iframe|source)[^>]*\bsrc=["']?((?:https?:)?//[^"'\s>]+)|
                           <link[^>]*rel=["']?(?:stylesheet|preload|preconnect|icon)[^>]*href=["']?((?:https?:)?//[^"'\s>]+)|
                           url\(["']?((?:https?:)?//[^)"']+)""", re.X)  # fmt: skip
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert not loads.findall(path.read_text()), path


def test_every_key_of_the_models_is_in_the_reference(site: Path) -> None:
    """The reference is made from the models: a key that somebody adds is there by itself."""
    from bgpcni.cluster.objects import KINDS
    from bgpcni.config.agent import AgentConfig

    agent, objects = ((site / f"reference/{name}.html").read_text() for name in ("agent", "objects"))
    for name in AgentConfig.model_fields:
        assert f"<code>{name}</code>" in agent
    for name in KINDS:
        assert f'id="{name.lower()}"' in objects


PAGE = """
```json title="/etc/cni/net.d/a.conf"
{}
```

```console
# ip netns add a
# for i in 1 2; do
>   echo $i
> done
1
…
```

```sh
make demo
```
"""


def test_the_steps_of_a_tutorial_are_its_files_and_commands() -> None:
    """In their order; a block that is only shown is no step."""
    file, first, second = read(PAGE)
    assert file == File(Path("/etc/cni/net.d/a.conf"), "{}\n")
    assert first == Command("ip netns add a", (), 7)
    assert second == Command("for i in 1 2; do\n  echo $i\ndone", ("1", "…"), 8)


@pytest.mark.parametrize(
    ("shown", "output", "fits"),
    [
        ((), "", True),
        ((), "a warning", False),
        (("…",), "", True),
        (("…",), "a\nb", True),
        (("1 packets …, 0% packet loss…",), "1 packets transmitted, 0% packet loss, time 0ms", True),
        (("1 packets …, 0% packet loss…",), "1 packets transmitted, 100% packet loss", False),
        (("a…b",), "a\nb", False),
        (("…", "last", "…"), "first\nlast", True),
        (("a.c",), "abc", False),
    ],
)
def test_an_output_fits_only_what_the_page_shows(shown: tuple[str, ...], output: str, fits: bool) -> None:
    """`…` within a line does not reach over its end."""
    assert Command("true", shown, 1).fits(output) is fits


def test_a_block_that_begins_with_an_output_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2: a block of commands begins with '# '"):
        list(read("```console\noutput\n```\n"))
