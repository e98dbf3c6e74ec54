"""A real Chromium, headless, by its DevTools protocol over two pipes."""

import base64
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from queue import Empty, Queue

WAIT = 60.0
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    *("--headless", "--no-sandbox", "--no-first-run", "--disable-dev-shm-usage", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--autoplay-policy=no-user-gesture-required", "--hide-scrollbars"),
    *("--force-device-scale-factor=1", "--remote-debugging-pipe"),
    # WebGL without a GPU.
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
]
MODIFIERS = {"alt": 1, "ctrl": 2, "meta": 4, "shift": 8}
# What a key press types, where that is not the key's name.
TEXT = {"Enter": "\r", "Space": " "}


def find_chromium():
    """Its path, or ``None``."""
    given = os.environ.get("CHROMIUM")
    return given or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a browser of its own; all that it complains about is kept.

    Attributes:
        complaints: console errors and warnings, exceptions, and violations of the page's policy.
        requests: every URL that was asked for, but for what is in the page itself.
    """

    def __init__(self, folder, *, size=(1200, 800)):
        self.downloads = Path(folder) / "downloads"
        self.complaints, self.requests = [], []
        self._folder, self._size = Path(folder), size
        self._answers, self._number, self._session = Queue(), 0, None

    def __enter__(self):
        out_read, self._write = os.pipe()
        self._read, in_write = os.pipe()

        def ends():  # of the pipes, where Chromium looks for them
            os.dup2(out_read, 13)
            os.dup2(in_write, 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        profile = f"--user-data-dir={self._folder / 'profile'}"
        window = f"--window-size={self._size[0]},{self._size[1]}"
        self._process = subprocess.Popen(
            [find_chromium(), *FLAGS, profile, window, "about:blank"],
            preexec_fn=ends,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(out_read)
        os.close(in_write)
        threading.Thread(target=self._receive, daemon=True).start()
        target = next(
            info["targetId"]
            for info in self.call("Target.getTargets")["targetInfos"]
            if info["type"] == "page"
        )
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = answer["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.call(f"{domain}.enable")
        self.downloads.mkdir(exist_ok=True)
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        return self

    def __exit__(self, *_):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._write)

    def _receive(self):
        buffer = b""
        while data := os.read(self._read, 2**16):
            *messages, buffer = (buffer + data).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers.put(message)
                else:
                    self._notice(message["method"], message.get("params", {}))
        os.close(self._read)

    def _notice(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append([arg.get("value") for arg in params["args"]])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"])
        elif method == "Audits.issueAdded":
            issue = params["issue"]
            if issue["code"] == "ContentSecurityPolicyIssue":
                self.complaints.append(issue)
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("blob:", "data:")):
                self.requests.append(url)

    def call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        try:
            while (answer := self._answers.get(timeout=WAIT))["id"] != self._number:
                pass
        except Empty:
            raise TimeoutError(f"{method} {params}") from None
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, page):
        """Open the file and wait until the map is drawn, or known to be impossible."""
        self.call("Page.navigate", url=Path(page).resolve().as_uri())
        self.wait("document.documentElement?.dataset.ready")

    def js(self, expression):
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression):
        end = time.monotonic() + WAIT
        while not (value := self.js(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression}; complaints: {self.complaints[:2]}")
            time.sleep(0.02)
        return value

    def text(self, selector):
        return self.js(f"document.querySelector({json.dumps(selector)}).innerText")

    def visible(self, selector):
        return self.js(f"document.querySelector({json.dumps(selector)}).checkVisibility()")

    def box(self, selector):
        return self.js(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
        )

    def mouse(self, kind, x, y, *, buttons=0, shift=False):
        self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button="left" if kind != "mouseMoved" or buttons else "none",
            buttons=buttons,
            clickCount=0 if kind == "mouseMoved" else 1,
            modifiers=MODIFIERS["shift"] if shift else 0,
        )

    def move(self, x, y):
        self.mouse("mouseMoved", x - 3, y)
        self.mouse("mouseMoved", x, y)
        self.frames()

    def click_at(self, x, y):
        self.move(x, y)
        self.mouse("mousePressed", x, y, buttons=1)
        self.mouse("mouseReleased", x, y)

    def click(self, selector):
        left, top, width, height = self.box(selector)
        self.click_at(left + width / 2, top + height / 2)

    def drag(self, points, *, shift=False):
        first, *rest = points
        self.move(*first)
        self.mouse("mousePressed", *first, buttons=1, shift=shift)
        for point in rest:
            self.mouse("mouseMoved", *point, buttons=1, shift=shift)
            self.frames()
        self.mouse("mouseReleased", *points[-1], shift=shift)
        self.frames()

    def frames(self, count=2):
        for _ in range(count):
            self.js("new Promise((resolve) => requestAnimationFrame(() => resolve(true)))")

    def key(self, key, *, shift=False):
        text = TEXT.get(key, key if len(key) == 1 else "")
        name = " " if key == "Space" else key
        code = {"Enter": 13, "Escape": 27, "Tab": 9, "Space": 32}.get(key, 0)
        common = {"key": name, "windowsVirtualKeyCode": code} | (
            {"modifiers": MODIFIERS["shift"]} if shift else {}
        )
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)
        self.frames()

    def type(self, text):
        self.call("Input.insertText", text=text)

    def emulate(self, **features):
        """For example ``prefers_color_scheme="dark"``; none: what was emulated ends."""
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": n.replace("_", "-"), "value": v} for n, v in features.items()],
        )
        self.frames()

    def resize(self, width, height):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.frames(4)

    def screenshot(self, path):
        shot = self.call("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def downloaded(self):
        """The bytes of the one file that was downloaded, which is taken away."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            for file in self.downloads.iterdir():
                if file.suffix == ".csv" and (content := file.read_bytes()):
                    file.unlink()
                    return content
            time.sleep(0.02)
        raise TimeoutError("nothing was downloaded")
