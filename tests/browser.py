"""A real Chromium, headless, driven over a pipe by its DevTools protocol: no library needed.

https://chromedevtools.github.io/devtools-protocol/: messages are JSON, each ends in a zero byte;
with --remote-debugging-pipe Chromium reads them from file descriptor 3 and writes to 4.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, COMMANDS)), None)


class Browser:
    """One page in a browser of its own; a context manager."""

    def __init__(self, profile: Path) -> None:
        command = find_chromium()
        assert command is not None, "whoever opens a browser makes sure that there is one"
        self._profile, self._folders = profile, count()
        self.requested: list[str] = []  # addresses, of the worker too
        self.problems: list[str] = []  # exceptions and errors on the console
        self._process, self._to, self._from = _start(command, profile)
        self._sent, self._buffer = 0, b""
        self._session: str | None = None
        try:
            self._attach()
        except BaseException:
            self.__exit__()
            raise

    def _attach(self) -> None:
        """Open the page, and hear of what it and its workers do."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        found = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            self._call(f"{domain}.enable")
        self._call(
            "Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True
        )

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._to)
        os.close(self._from)

    def open(self, address: str) -> None:
        self._call("Page.navigate", url=address)

    def run(self, expression: str) -> object:
        """What an expression of JavaScript in the page gives; promises are awaited."""
        done = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({selector!r}).textContent"))

    def wait_for(self, expression: str, seconds: float = 120) -> None:
        """Wait until an expression of JavaScript is true."""
        self.wait_until(lambda: self.run(f"Boolean({expression})"), expression, seconds)

    def wait_until(self, happened: Callable[[], object], what: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, (what, self.text("#status"), self.problems)
            time.sleep(0.05)

    def new_downloads(self) -> Path:
        """An empty folder for what is saved from now on: no file there can be in the way."""
        folder = self._profile / f"downloads-{next(self._folders)}"
        self._call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        return folder

    def choose_file(self, selector: str, path: Path) -> None:
        """Give a file to an <input type=file>, as its dialogue does."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def click(self, x: float, y: float, *, button: str = "left", shift: bool = False) -> None:
        """Click at a place of the window, in its pixels."""
        place = {"x": x, "y": y, "button": button, "clickCount": 1, "modifiers": 8 * shift}
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, **place)

    def press(self, key: str, *, shift: bool = False) -> None:
        codes = {"Enter": 13, "Tab": 9, "Backspace": 8, "Escape": 27, "ArrowUp": 38}
        codes |= {"ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}
        what = {"key": key, "windowsVirtualKeyCode": codes[key], "modifiers": 8 * shift}
        if key == "Enter":
            what["text"] = "\r"
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, **what)

    def show_as(self, width: int, height: int, *, dark: bool = False) -> None:
        """Take a window of so many pixels, of somebody who prefers light or dark pages."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """For a person to look at: the window, or the whole page."""
        taken = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _call(self, method: str, **params: object) -> dict:
        sent = self._send(method, self._session, **params)
        while True:
            answer = self._receive()
            if answer.get("id") == sent:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            if "method" in answer:
                self._note(answer)

    def _send(self, method: str, session: str | None, **params: object) -> int:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return self._sent

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], 120)
            content = os.read(self._from, 1 << 16) if ready else b""
            assert content, f"Chromium does not answer (exit code {self._process.poll()})"
            self._buffer += content
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict) -> None:
        params = event.get("params", {})
        if event["method"] == "Target.attachedToTarget":  # the worker, waiting for this
            for method in ("Network.enable", "Runtime.enable", "Runtime.runIfWaitingForDebugger"):
                self._send(method, params["sessionId"])
        elif event["method"] == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif event["method"] == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


def _start(command: str, profile: Path) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start Chromium; returns it with the descriptors to write to it and to read from it."""
    child_reads, to = _pipe()
    from_, child_writes = _pipe()
    flags = "--headless=new --remote-debugging-pipe --no-sandbox --disable-gpu --no-first-run"
    flags += f" --disable-dev-shm-usage --user-data-dir={profile / 'profile'} about:blank"
    launch = "import os, sys; a, b, *c = sys.argv[1:]; os.dup2(int(a), 3); os.dup2(int(b), 4)"
    launch += "; os.execvp(c[0], c)"
    words = [sys.executable, "-c", launch, str(child_reads), str(child_writes), command]
    with (profile / "stderr.txt").open("wb") as said:
        process = subprocess.Popen(
            [*words, *flags.split()],
            pass_fds=(child_reads, child_writes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
    os.close(child_reads)
    os.close(child_writes)
    return process, to, from_


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are above 9: making them 3 and 4 in the child overwrites neither."""
    low = os.pipe()
    reads, writes = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in low)
    for end in low:
        os.close(end)
    return reads, writes
