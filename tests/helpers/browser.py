"""Chromium driven through chromedriver's plain HTTP interface (W3C WebDriver), for the tests that look at pages."""

import base64
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.scripts import HANG

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Browser:
    """A session: open a file, run scripts in it, read its console, set its size and colours, take pictures."""

    def __init__(self, address: str, profile: Path) -> None:
        self.address = address
        options = {"args": [*FLAGS, f"--user-data-dir={profile}"], "binary": CHROMIUM}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.address += "/session/" + self._post("/session", capabilities={"alwaysMatch": wanted})["sessionId"]

    def _post(self, path: str, **content: Any) -> Any:
        data = json.dumps(content).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=HANG) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, page: Path) -> None:
        self._post("/url", url=page.resolve().as_uri())

    def run(self, script: str) -> Any:
        """What the JavaScript returns."""
        return self._post("/execute/sync", script=script, args=[])

    def console(self) -> list[str]:
        """Messages since the last call: errors, warnings, requests that were refused."""
        return [entry["message"] for entry in self._post("/se/log", type="browser")]

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """Size in CSS pixels, and light or dark."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        feature = [{"name": "prefers-color-scheme", "value": scheme}]
        self._post("/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=metrics)
        self._post("/goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": feature})

    def picture(self, path: Path) -> None:
        """A PNG of the window."""
        shot = self._post("/goog/cdp/execute", cmd="Page.captureScreenshot", params={"format": "png"})
        path.write_bytes(base64.b64decode(shot["data"]))

    def quit(self) -> None:
        urllib.request.urlopen(urllib.request.Request(self.address, method="DELETE"), timeout=HANG).close()


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a new, empty profile folder; it and its driver end with the block."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    driver = subprocess.Popen([DRIVER, "--port=0"], **pipes)
    try:
        said = ""
        while "started successfully" not in said:
            line = driver.stdout.readline()
            said += line
            if not line:
                raise RuntimeError(f"{DRIVER} has not started: {said}")
        (port,) = re.findall(r"started successfully on port (\d+)", said)
        session = Browser(f"http://127.0.0.1:{port}", profile)
        try:
            yield session
        finally:
            session.quit()
    finally:
        driver.terminate()
        driver.wait(timeout=HANG)
