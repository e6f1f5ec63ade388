"""A headless Chromium without WebGL, driven over its debugging pipe: pages are looked at as a reader sees them."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Seconds that a page may take for what it is asked, on a machine that does other work.
_PATIENCE = 30.0


class Browser:
    """One page in a browser without a window.

    Parameters
    ----------
    profile
        Folder for what the browser keeps.
    """

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars",
            f"--user-data-dir={profile}", "--remote-debugging-pipe", "--disable-3d-apis", "--no-first-run",
            "about:blank",
        ]  # fmt: skip
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        # The browser reads its third descriptor and writes to its fourth.
        words = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "browser", *command]
        self._process = subprocess.Popen(words, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self._number, self._left, self._session = 0, b"", None
        self.events: list[dict] = []
        page = next(each for each in self("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self._session = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Network", "Log"):
            self(f"{room}.enable")

    def __call__(self, method: str, **parameters) -> dict:
        """Send a command of the debugging protocol, and return its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict:
        while b"\0" not in self._left:
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Open a file in a window of this size, pixels."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.events.clear()
        self("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def ask(self, expression: str):
        """Return the value of an expression of JavaScript in the page."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = _PATIENCE) -> None:
        """Wait until an expression of JavaScript is true in the page."""
        end = time.monotonic() + seconds
        while not self.ask(expression):
            assert time.monotonic() < end, f"not within {seconds:g} s: {expression}"
            time.sleep(0.05)

    def picture(self, *, whole: bool = False) -> bytes:
        """Return what is shown as PNG: the window, or the whole page."""
        return base64.b64decode(self("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    @property
    def requested(self) -> list[str]:
        """Addresses that the page has asked for."""
        asked = [
            each["params"]["request"]["url"] for each in self.events if each["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith(("data:", "blob:"))]

    @property
    def complaints(self) -> list[str]:
        """Errors that the page has caused, as the browser's console shows them."""
        said = [each["params"]["entry"] for each in self.events if each["method"] == "Log.entryAdded"]
        thrown = [
            each["params"]["exceptionDetails"] for each in self.events if each["method"] == "Runtime.exceptionThrown"
        ]
        return [*(each["text"] for each in said if each["level"] == "error"), *map(str, thrown)]

    def close(self) -> None:
        """End the browser."""
        self("Browser.close")
        self._process.wait(_PATIENCE)
        os.close(self._out)
        os.close(self._in)
