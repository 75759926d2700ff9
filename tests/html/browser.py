"""Turns an installed Chromium into a browser that a test steers: DevTools over two pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

#: Everything that a fresh Chromium would ask the network for, or a screen, is off.
_FLAGS = (
    "--headless",
    "--no-sandbox",  # of no use to root, and refused to them
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
#: Seconds until a browser that does not answer is given up.
_PATIENCE = 60.0

_KEYS = {"Enter": 13, "Tab": 9, " ": 32, "ArrowRight": 39, "ArrowDown": 40}


def find_chromium() -> str | None:
    """Return the path of a Chromium; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


class BrowserError(Exception):
    """The browser ended, did not answer, or a page's code raised."""


class Browser:
    """A running Chromium with one page.

    Attributes
    ----------
    complaints
        What the page wrote to its console, and exceptions that nobody caught.
    dialogs
        Messages of dialogs that the page opened.
    """

    def __init__(self, to: int, back: int) -> None:
        self.complaints: list[str] = []
        self._requests: dict[str, str] = {}
        self.dialogs: list[str] = []
        self._to, self._back = to, back
        self._rest = b""
        self._number = 0
        self._session = ""
        self._loaded = False
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, but for those that its policy forbade."""
        return list(self._requests.values())

    def open(self, page: Path) -> None:
        """Load a file, and wait until its scripts have run; what was noted before is forgotten."""
        self.complaints, self._requests, self.dialogs = [], {}, []
        self._loaded = False
        self._call("Page.navigate", url=page.resolve().as_uri())
        while not self._loaded:
            self._receive()

    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        """Make the window as large as this."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def prefer(self, scheme: str) -> None:
        """Let the system ask for ``"light"`` or ``"dark"``."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def run(self, code: str) -> Any:
        """Return the value of an expression in the page; promises are waited for."""
        answer = self._call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click into the middle of an element, as a mouse does."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=place[0],
                y=place[1],
                button="left",
                clickCount=1,
            )

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        number = _KEYS[key]
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=number,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def type(self, selector: str, text: str) -> None:
        """Focus an input and type a text into it, instead of what it holds."""
        self.run(f"document.querySelector({json.dumps(selector)}).select()")
        self._call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """Write a picture of what the window shows."""
        answer = self._call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        """Ask it to end."""
        self._session = ""
        self._call("Browser.close")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        """Return the next message, after taking note of what happened."""
        until = time.monotonic() + _PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._back], [], [], until - time.monotonic())
            some = os.read(self._back, 1 << 20) if ready else b""
            if not some:
                raise BrowserError("the browser does not answer")
            self._rest += some
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(told["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self._requests[told["requestId"]] = told["request"]["url"]
        elif method == "Network.loadingFailed" and told.get("blockedReason") == "csp":
            self._requests.pop(told["requestId"], None)
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(told["message"])


@contextmanager
def browser(program: str) -> Iterator[Browser]:
    """Run a Chromium with an empty profile, which goes away with it."""
    to_read, to_write = os.pipe()
    back_read, back_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = os.posix_spawn(
            program,
            [program, *_FLAGS, f"--user-data-dir={profile}"],
            os.environ,
            file_actions=[
                # It reads from descriptor 3 and writes to 4.
                (os.POSIX_SPAWN_DUP2, to_read, 3),
                (os.POSIX_SPAWN_DUP2, back_write, 4),
                *((os.POSIX_SPAWN_OPEN, at, os.devnull, os.O_RDWR, 0) for at in (0, 1, 2)),
            ],
            setpgroup=0,
        )
        os.close(to_read)
        os.close(back_write)
        try:
            opened = Browser(to_write, back_read)
            yield opened
            opened.close()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(to_write)
            os.close(back_read)
