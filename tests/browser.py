"""Headless Chromium by the DevTools protocol: enough of it to use a page as a person does."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
KEYS = {"Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9, "End": 35, "Home": 36}


def chromium() -> str | None:
    """Where it is installed; None: it is not."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.errors: list[str] = []  # that scripts or the browser told the console
        self.asked: list[str] = []  # addresses
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> Any:
        """A command, and its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: Any) -> None:
        told = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(told["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(str(told["entry"]))
        elif message.get("method") == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.do(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, condition: str, seconds: float = 15) -> Any:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not (found := self.run(condition)):
            assert time.monotonic() < end, f"{condition} is not so; the page says: " + str(
                self.run("document.body.innerText")
            )
            time.sleep(0.03)
        return found

    def open(self, address: str) -> None:
        """Go to an address."""
        self.do("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def press(self, key: str) -> None:
        """One key."""
        down = {"type": "keyDown", "text": "\r"} if key == "Enter" else {"type": "rawKeyDown"}
        for kind in (down, {"type": "keyUp"}):
            self.do(
                "Input.dispatchKeyEvent", key=key, code=key, windowsVirtualKeyCode=KEYS[key], **kind
            )

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.do("Input.insertText", text=text)

    def size(self, width: int, height: int) -> None:
        """Of the window."""
        self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def prefer(self, scheme: str) -> None:
        """A system in a light or dark theme, without motion."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.do("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: Path) -> Path:
        """A screenshot."""
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot")["data"]))
        return path


@contextmanager
def page(folder: Path) -> Iterator[Page]:
    """A new browser with one tab; its profile is in the folder."""
    from websockets.sync.client import connect

    path = chromium()
    assert path is not None
    command = [
        path, "--headless=new", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", "about:blank",
    ]  # fmt: skip
    if os.geteuid() == 0:
        command.insert(1, "--no-sandbox")  # which it demands of root
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            port = _port(folder / "profile/DevToolsActivePort", browser)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                tabs = json.load(answer)
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            with connect(address, max_size=None, open_timeout=30) as socket:
                yield Page(socket)
        finally:
            browser.kill()


def _port(path: Path, browser: subprocess.Popen[bytes]) -> int:
    for _ in range(600):
        if path.exists() and (lines := path.read_text().splitlines()):
            return int(lines[0])
        assert browser.poll() is None, "the browser ended"
        time.sleep(0.05)
    raise AssertionError("the browser did not start")
