"""A page in headless Chromium, driven by the DevTools protocol over a pipe: no driver and no library needed."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--remote-debugging-pipe")

SECONDS = 120
"""After so long a browser that hangs is ended."""


def find_browser() -> str | None:
    """The first of ``NAMES`` on PATH."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def open_page(program: str, file: Path, profile: Path) -> Iterator["Page"]:
    """A file in a browser of its own, loaded; ``profile`` is an empty folder for what the browser writes."""
    to_browser, commands = os.pipe()
    answers, from_browser = os.pipe()
    flags = " ".join([*FLAGS, f"--user-data-dir='{profile}'"])
    # DevTools reads from descriptor 3 and writes to 4; plain sh knows descriptors of one digit only
    process = subprocess.Popen(
        ["bash", "-c", f"exec '{program}' {flags} 3<&{to_browser} 4>&{from_browser}"],
        pass_fds=(to_browser, from_browser),
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    limit = threading.Timer(SECONDS, process.kill)
    limit.start()
    try:
        with os.fdopen(commands, "wb", buffering=0) as writer, os.fdopen(answers, "rb") as reader:
            yield Page(writer, reader, file.resolve().as_uri())
    finally:
        limit.cancel()
        process.kill()
        process.wait()


class Page:
    """An open page and what it did.

    Attributes
    ----------
    problems : errors and warnings of the console, and uncaught exceptions
    requests : every URL that was asked for, the page's own first
    """

    def __init__(self, writer: Any, reader: Any, url: str) -> None:
        self._writer, self._reader, self._n_sent, self._session = writer, reader, 0, None
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        self._ask("Page.navigate", url=url)
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, None of one that has none."""
        result = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def emulate(self, width: int, height: int = 900, scheme: str = "light", media: str = "") -> None:
        """Show the page in a window of this size, ``light`` or ``dark``, on the screen or as ``print``."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, path: Path) -> None:
        """Save the whole page as PNG."""
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._n_sent += 1
        own_session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._n_sent, "method": method, "params": parameters, **own_session}
        self._writer.write(json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._n_sent:
            pass
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._reader.read(1)) != b"\0":
            assert byte, "the browser ended"
            message += byte
        event = json.loads(message)
        self._note(event.get("method"), event.get("params", {}))
        return event

    def _note(self, method: str | None, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.problems.append(str(told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(told["entry"]["text"])
