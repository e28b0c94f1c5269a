"""The looking glass of a node, and a browser that looks at it: both in the node's network namespace."""

from __future__ import annotations

import base64
import http.client
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from bgpcni.testing.patience import SECONDS
from integration.lab import Lab, Node, until
from integration.lab.daemon import Daemon
from integration.lab.inside import Inside
from integration.lab.namespace import Argument
from integration.lab.node import BGPCNI

PORT = 8179
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"


class Answer(NamedTuple):
    code: int
    headers: Mapping[str, str]
    text: str


class LookingGlass(Daemon):
    """`bgpcni looking-glass` of a node, as root or, with `user` (`USER:GROUP`), as somebody else."""

    def __init__(self, lab: Lab, node: Node, *options: Argument, user: str = "", name: str = "looking-glass") -> None:
        super().__init__(node.namespace, node.folder / name)
        self._node, self._options, self._user = node, options, user
        self.inside = Inside(node.namespace)
        lab.adopt(self)

    def argv(self) -> Sequence[Argument]:
        uid, _, gid = self._user.partition(":")
        become = ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups") if self._user else ()
        return (*become, BGPCNI, "looking-glass", "--socket", self._node.run_dir / "read.sock", *self._options)

    def answers(self) -> object:
        return self.get("/api/v1/status").code == 200

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """One request, in the namespace; the body as text."""
        return self.inside.call(self._get, path, method, headers)

    def _get(self, path: str, method: str, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=SECONDS)
        try:
            connection.request(method, path, headers=dict(headers))
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
        finally:
            connection.close()

    def close(self) -> None:
        super().close()
        self.inside.close()


class Browser:
    """A real Chromium without a screen. Its driver is asked in the node's namespace, so every call goes there."""

    def __init__(self, lab: Lab, node: Node, *, scripts: bool = True, size: tuple[int, int] = (1280, 900)) -> None:
        self._inside = Inside(node.namespace)
        self._folder = node.folder / f"chromium-{'on' if scripts else 'off'}"
        self._driver: webdriver.Chrome = self._inside.call(self._start, scripts, size)
        lab.callback(self.close)

    def _start(self, scripts: bool, size: tuple[int, int]) -> webdriver.Chrome:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--lang=en",
            f"--user-data-dir={self._folder}", f"--window-size={size[0]},{size[1]}",
        ):  # fmt: skip
            options.add_argument(argument)
        if not scripts:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        environment = dict(os.environ) | {"HOME": str(self._folder), "SE_AVOID_STATS": "true"}
        driver = webdriver.Chrome(options, Service(DRIVER, env=environment))
        driver.set_page_load_timeout(SECONDS)
        return driver

    def open(self, path: str) -> str:
        """Go to a page; its text."""
        self._inside.call(self._driver.get, f"http://127.0.0.1:{PORT}{path}")
        return self.text()

    def text(self) -> str:
        """What a reader sees of the page's main part."""
        return self._inside.call(lambda: str(self._driver.find_element(By.TAG_NAME, "main").text))

    def title(self) -> str:
        return self._inside.call(lambda: str(self._driver.title))

    def path(self) -> str:
        return self._inside.call(lambda: str(self._driver.current_url)).partition(f":{PORT}")[2]

    def shows(self, *words: str, gone: str = "") -> None:
        """Wait until the page shows all this, and not `gone`, without being loaded again."""
        until(
            lambda: (text := self.text()) and all(word in text for word in words) and (not gone or gone not in text),
            f"{words} on {self.path()}",
        )

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a script in the page."""
        return self._inside.call(self._driver.execute_script, script, *arguments)

    def keys(self, *keys: str) -> None:
        """Type into what has the focus."""
        self._inside.call(lambda: self._driver.switch_to.active_element.send_keys(*keys))

    def dark(self, wanted: bool) -> None:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}]
        self._inside.call(self._driver.execute_cdp_cmd, "Emulation.setEmulatedMedia", {"features": scheme})

    def on_paper(self, wanted: bool) -> None:
        """As it is printed, or as on a screen again."""
        order = {"media": "print" if wanted else "screen"}
        self._inside.call(self._driver.execute_cdp_cmd, "Emulation.setEmulatedMedia", order)

    def wide(self, width: int | None) -> None:
        """As on a screen that is so wide, 390 for a phone; None: as before."""
        order = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": True} if width else {}
        name = "setDeviceMetricsOverride" if width else "clearDeviceMetricsOverride"
        self._inside.call(self._driver.execute_cdp_cmd, f"Emulation.{name}", order)

    def log(self) -> list[str]:
        """What the browser complained of: errors of scripts, and what the content security policy refused."""
        log = self._inside.call(self._driver.execute, "getLog", {"type": "browser"})
        return [str(entry["message"]) for entry in log["value"]]

    def picture(self, path: Path, until: str = "") -> None:
        """The page as PNG: all of it, or its main part down to the first element that fits a selector."""
        corner = "[0, 0, document.documentElement.scrollWidth, Math.max(document.documentElement.scrollHeight, 300)]"
        if until:
            corner = """(() => {
                const [from, to] = [document.querySelector("main"), document.querySelector(arguments[0])].map(
                  (each) => each.getBoundingClientRect());
                return [from.x + scrollX, from.y + scrollY, from.width, to.bottom - from.y + 16];
            })()"""
        x, y, width, height = self.run(f"return {corner}", until)
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        order = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        shot = self._inside.call(self._driver.execute_cdp_cmd, "Page.captureScreenshot", order)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """Idempotent."""
        try:
            self._inside.call(self._driver.quit)
        except RuntimeError:
            pass  # it was closed before
        self._inside.close()
