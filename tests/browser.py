"""A headless Chromium that opens a page of ours; tests skip, and say so, where there is none."""

import base64
import json
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

QUIET = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"


def chromium() -> str:
    """Its path."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return found


def opened(page: Path, folder: Path) -> str:
    """The page's elements as the browser has them, after it was opened without a word on the console."""
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [chromium(), *QUIET.split(), profile, "--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    return done.stdout


def assert_self_contained(page: str) -> None:
    """Nothing on the page asks the net, or could: no script, no link, no address but to the page itself."""
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)", page)
    assert not re.findall(r"url\(\s*[\"']?(?!#)", page) and "@import" not in page
    assert "<script" not in page and "<link" not in page and "<iframe" not in page
    assert "default-src 'none'" in page


class Tab:
    """A page in a headless Chromium that is driven by its own protocol (CDP): what a person does and sees there."""

    def __init__(self, socket, said: list[str]):
        self.socket, self.number, self.said = socket, 0, said

    def call(self, method: str, **parameters) -> dict:
        """The result of one command; `said` collects what comes on the console and which addresses are asked."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict) -> None:
        parameters = message.get("params", {})
        if message.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.said.append(json.dumps(parameters))
        if message.get("method") == "Network.requestWillBeSent":
            self.said.append(parameters["request"]["url"])

    def value(self, expression: str):
        """What an expression of JavaScript gives, awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def type(self, field: str, text: str) -> None:
        """Click into the field of that id and type."""
        self.value(f"document.getElementById({field!r}).focus()")
        self.call("Input.insertText", text=text)

    def until(self, expression: str):
        """Wait until an expression is true."""
        end = time.monotonic() + 60
        while not self.value(expression):
            assert time.monotonic() < end, (expression, self.said)
            time.sleep(0.05)

    def picture(self, file: Path) -> None:
        """A picture of what is to be seen."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def tab(url: str, folder: Path, width: int = 1000, dark: bool = False):
    """A `Tab` in which an address is open, that many CSS pixels wide."""
    from websockets.sync.client import connect

    flags = [*QUIET.split(), f"--user-data-dir={folder / 'profile'}", "--remote-debugging-port=0", "about:blank"]
    with subprocess.Popen([chromium(), *flags], stderr=subprocess.PIPE, text=True) as process:
        try:
            address = next(line.split()[-1] for line in process.stderr if line.startswith("DevTools listening on"))
            with httpx.Client(base_url=f"http://{address.split('/')[2]}") as client:
                pages = [page for page in client.get("/json").json() if page["type"] == "page"]
            with connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as socket:
                page = Tab(socket, [])
                for domain in ("Page", "Runtime", "Log", "Network"):
                    page.call(f"{domain}.enable")
                scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
                page.call("Emulation.setEmulatedMedia", features=scheme)
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
                page.call("Emulation.setDeviceMetricsOverride", **size)
                page.call("Page.navigate", url=url)
                page.until("document.readyState === 'complete' && location.href !== 'about:blank'")
                yield page
        finally:
            process.terminate()
