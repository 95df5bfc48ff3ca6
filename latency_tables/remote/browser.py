"""A page in headless Chromium that answers the requests of `connection`, with onnxruntime-web.

Chromium is driven through pipes by the DevTools protocol. The page comes from a server on the
loopback address whose headers isolate it, because threads and a fine clock need that
(https://developer.mozilla.org/docs/Web/API/Window/crossOriginIsolated).
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import DeviceError, RuntimeMissingError
from hwnas.latency_tables.devices import cpu_name
from hwnas.latency_tables.on_device.state import facts
from hwnas.latency_tables.remote.inventory import Device
from hwnas.latency_tables.remote.process import Peer
from hwnas.latency_tables.remote.transport import DeviceLostError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PACKAGE = "onnxruntime-web"
LIBRARY = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What a page needs of the package: the script, and the WebAssembly with SIMD and threads."""
KINDS = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
PAGE = "<!doctype html><meta charset=utf-8><script src=/ort.wasm.min.js></script>"
PAGE += "<script src=/page.js></script>"
WITH_PIPES = (
    "import fcntl,os,sys;r,w=(fcntl.fcntl(int(n),fcntl.F_DUPFD,10) for n in sys.argv[1:3]);"
    "os.dup2(r,3);os.dup2(w,4);os.execv(sys.argv[3],sys.argv[3:])"
)
"""Starts a program that reads from descriptor 3 and writes to 4, as Chromium does."""
START_S = 60.0
READY = "typeof handle == 'function' && typeof ort == 'object'"
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


def find_browser(where: str) -> str:
    """Return the path of Chromium.

    Raises:
        RuntimeMissingError: there is none.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise RuntimeMissingError(
            "Chromium is not installed",
            where=where,
            expected=f"one of {', '.join(BROWSERS)}",
            mend="install it, as with `apt-get install chromium`",
        )
    return found


def find_package(where: str, stated: str | None = None) -> Path:
    """Return the folder of the npm package onnxruntime-web.

    Args:
        where: what needs it, for the error.
        stated: the folder, where it is named; else it is looked for in `node_modules` of this
            folder, those above it, and the home folder.

    Raises:
        RuntimeMissingError: there is none.
    """
    here = Path.cwd()
    folders = [here, *here.parents, Path.home()]
    places = [Path(stated).expanduser()] if stated else []
    places = places or [folder / "node_modules" / PACKAGE for folder in folders]
    for place in places:
        if all((place / "dist" / name).exists() for name in LIBRARY):
            return place
    raise RuntimeMissingError(
        f"the npm package {PACKAGE} is not installed",
        where=where,
        expected=str(places[0]),
        mend=f"install it with `npm install {PACKAGE}`",
    )


class Browser(Peer):
    """A page that measures; it keeps the files that are sent to it in this process."""

    def __init__(self, device: Device) -> None:
        """Start the server and the browser; `greeting` tells whether the page runs."""
        super().__init__(device.name)
        browser, self._package = (
            find_browser(device.name),
            find_package(device.name, device.package),
        )
        self._kept: dict[str, bytes] = {}
        self._incoming: list[bytes] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self._content))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._devtools = DevTools(browser, self._profile.name, self._said)

    def greeting(self) -> Any:
        """See `Peer.greeting`: this machine with the browser's versions."""
        page = self._devtools.open(f"http://127.0.0.1:{self._server.server_port}/")
        if not page["isolated"]:
            raise DeviceError("the page is not isolated, so threads cannot run", where=self.name)
        stated = facts(Path(self._profile.name)) | {"device": cpu_name(), "providers": ["wasm"]}
        package = json.loads((self._package / "package.json").read_text("utf-8"))
        return stated | {"versions": {PACKAGE: package["version"], "browser": page["browser"]}}

    def write(self, request: Mapping[str, Any]) -> None:
        """See `Peer.write`."""
        own = {"missing": self._missing, "put": self._put, "clean": self._clean}
        if request["do"] == "stop":
            self._devtools.evaluate(f"stop({request['id']})")
        elif request["do"] in own:
            done = own[request["do"]](request)
            self._lines.put(json.dumps({"id": request["id"], "done": done}).encode())
        else:
            # The page answers through its binding; the promise is not waited for.
            self._devtools.evaluate(f"void handle({json.dumps(request)})")

    def close(self) -> None:
        """See `Peer.close`."""
        self._devtools.close()
        self._server.shutdown()
        self._server.server_close()
        self._profile.cleanup()

    def _failure(self) -> DeviceError:
        return DeviceLostError("the browser has ended", where=self.name)

    def _said(self, payload: str | None) -> None:
        """Take a line of the page; outputs become an npz file, as a device would send them."""
        if payload is None:
            self._lines.put(None)
            return
        line = json.loads(payload)
        if isinstance(line.get("done"), dict) and "tensors" in line["done"]:
            arrays = [_array_of(tensor) for tensor in line["done"].pop("tensors")]
            file = io.BytesIO()
            np.savez(file, *arrays)
            line["done"]["npz"] = base64.b64encode(file.getvalue()).decode()
        self._lines.put(json.dumps(line).encode())

    def _missing(self, request: Mapping[str, Any]) -> list[str]:
        return [digest for digest in request["digests"] if digest not in self._kept]

    def _put(self, request: Mapping[str, Any]) -> None:
        self._incoming.append(base64.b64decode(request["part"]))
        if request["last"]:
            needed = set(request["needed"])
            self._kept = {key: data for key, data in self._kept.items() if key in needed}
            self._kept[request["file"]] = b"".join(self._incoming)
            self._incoming = []

    def _clean(self, request: Mapping[str, Any]) -> dict[str, int]:
        removed = {"files": len(self._kept), "bytes": sum(map(len, self._kept.values()))}
        self._kept = {}
        return removed

    def _content(self, path: str) -> tuple[str, bytes] | None:
        """The type and the bytes of what the page asks for."""
        kind, _, name = path.strip("/").rpartition("/")
        if path == "/":
            return "text/html", PAGE.encode()
        if path == "/page.js":
            script = resources.files("hwnas.latency_tables.on_device") / "page.js"
            return KINDS[".js"], script.read_bytes()
        if not kind and name in LIBRARY:
            return KINDS[Path(name).suffix], (self._package / "dist" / name).read_bytes()
        if kind == "files" and name in self._kept:
            return "application/octet-stream", self._kept[name]
        if kind == "feeds" and name in self._kept:
            with np.load(io.BytesIO(self._kept[name]), allow_pickle=False) as arrays:
                found = [_tensor_of(arrays[key]) for key in arrays.files]
            return "application/json", json.dumps(found).encode()
        return None


class _Handler(BaseHTTPRequestHandler):
    """Answers the page from a function."""

    def __init__(self, content: Any, *arguments: Any) -> None:
        self._content = content
        super().__init__(*arguments)

    def do_GET(self) -> None:  # the name that the library calls
        """Answer one request."""
        found = self._content(self.path)
        self.send_response(200 if found else 404)
        kind, data = found or ("text/plain", b"")
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), **ISOLATED}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Nothing: the terminal is the command's."""


class DevTools:
    """The browser's process, and its DevTools protocol over two pipes.

    Args:
        browser: path of Chromium.
        profile: an empty folder.
        said: called with each text that the page sends, and with None at the end.
    """

    def __init__(self, browser: str, profile: str, said: Any) -> None:
        self._said = said
        self._numbers = count(1)
        self._session: str | None = None
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        # Chromium refuses a sandbox to root.
        options = ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        options += ["--no-first-run", "--disable-gpu", *([] if os.getuid() else ["--no-sandbox"])]
        descriptors = [str(to_read), str(to_write)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", WITH_PIPES, *descriptors, browser, *options, "about:blank"],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        threading.Thread(target=self._listen, daemon=True).start()

    def open(self, address: str, ready: str = READY) -> dict[str, Any]:
        """Open a page, and return the browser's version and whether the page is isolated.

        Args:
            address: of the page.
            ready: an expression of the page that becomes true once it can be used.

        Raises:
            DeviceError: it does not become true.
            DeviceLostError: the browser has ended.
        """
        version = self.call("Browser.getVersion")["product"]
        target = self.call("Target.createTarget", url=address)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.call("Runtime.enable")
        self.call("Runtime.addBinding", name="hwnasSay")
        end = time.monotonic() + START_S
        while self.evaluate(ready) is not True:
            if time.monotonic() > end:
                raise DeviceError("the page does not start", where=address)
            time.sleep(0.05)
        return {"browser": version, "isolated": self.evaluate("crossOriginIsolated")}

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a method of the protocol.

        Raises:
            DeviceLostError: the browser has ended.
        """
        number = next(self._numbers)
        answer = self._answers.setdefault(number, queue.Queue())
        request = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            request["sessionId"] = self._session
        try:
            data = json.dumps(request).encode() + b"\0"
            while data:
                data = data[os.write(self._to, data) :]
            found = answer.get(timeout=START_S)
        except (OSError, queue.Empty):
            raise DeviceLostError("the browser does not answer", where=method) from None
        finally:
            del self._answers[number]
        if "result" not in found:
            raise DeviceLostError("the browser has ended", where=method)
        result: dict[str, Any] = found["result"]
        return result

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        with contextlib.suppress(OSError):
            os.close(self._to)

    def _listen(self) -> None:
        rest = b""
        with os.fdopen(self._from, "rb", buffering=0) as pipe:
            while data := pipe.read(2**20):
                *messages, rest = (rest + data).split(b"\0")
                for message in messages:
                    self._take(json.loads(message))
        for waiting in list(self._answers.values()):
            waiting.put({})
        self._said(None)

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("id") in self._answers:
            self._answers[message["id"]].put(message)
        elif message.get("method") == "Runtime.bindingCalled":
            self._said(message["params"]["payload"])


def _tensor_of(array: np.ndarray) -> dict[str, Any]:
    """An array as the page reads it."""
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": str(array.dtype), "dims": list(array.shape), "data": data}


def _array_of(tensor: Mapping[str, Any]) -> np.ndarray:
    """A tensor of the page as an array."""
    flat = np.frombuffer(base64.b64decode(tensor["data"]), tensor["dtype"])
    return flat.reshape(tensor["dims"])
