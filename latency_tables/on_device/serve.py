"""Answers requests to measure models: lines of JSON on stdin, lines of JSON on stdout.

The process ends with its stdin, so that nothing runs on after a connection is lost. Files are kept
in one folder under their SHA-256. A lock in it keeps two processes from measuring at once.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import queue
import shutil
import sys
import threading
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hwnas.latency_tables.on_device.measure import (
    Call,
    RefusedError,
    block_ms,
    prepared,
    rounds,
    single_calls_ms,
    started,
)
from hwnas.latency_tables.on_device.state import Watch, facts

GREETING = "hwnas-device "
"""Begins the first line of a serving process; what a login prints before it is not ours."""
IDLE_S = 3600.0
"""A serving process that is asked nothing for so long ends."""
TURN_S = 2.0
"""Seconds between two messages that say who is measuring."""


def serve(settings: dict[str, Any]) -> None:
    """Answer requests until stdin ends.

    Args:
        settings: `workdir`, `disk_mb` (limit of the files that are kept) and `cpus` (to run on,
            or None).
    """
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if settings["cpus"]:
        # Before onnxruntime is imported, whose threads inherit it.
        os.sched_setaffinity(0, settings["cpus"])
    server = Server(settings, answers)
    threading.Thread(target=server.listen, daemon=True).start()
    server.run()


class Server:
    """Answers requests, one after the other.

    Args:
        settings: as for `serve`.
        answers: where the lines of answers go.
    """

    def __init__(self, settings: dict[str, Any], answers: Any) -> None:
        self.workdir = Path(settings["workdir"]).expanduser()
        self.limit_bytes = int(settings["disk_mb"] * 1e6)
        self.answers = answers
        self.requests: queue.Queue[dict[str, Any]] = queue.Queue(maxsize=8)
        self.stopped = -1
        self.incoming: list[bytes] = []
        self.handlers = {
            "missing": self.missing,
            "put": self.put,
            "measure": self.measure,
            "time": self.time,
            "single": self.single,
            "infer": self.infer,
            "facts": lambda request: {"facts": facts(self.workdir)},
            "clean": self.clean,
        }

    def listen(self) -> None:
        """Read requests, in a thread of its own, and end the process with its stdin."""
        for line in sys.stdin.buffer:
            request = json.loads(line)
            if request["do"] == "stop":
                self.stopped = request["id"]
            else:
                self.requests.put(request)
        os._exit(0)

    def run(self) -> None:
        """Greet, then answer every request with lines that end with `done` or `error`."""
        self.answers.write(GREETING + json.dumps(facts(self.workdir)) + "\n")
        self.answers.flush()
        while True:
            try:
                request = self.requests.get(timeout=IDLE_S)
            except queue.Empty:
                return
            number = request["id"]
            try:
                self.say(number, done=self.handlers[request["do"]](request))
            except RefusedError as error:
                self.say(number, error=str(error), kind=error.kind)
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                self.say(number, error=f"{where}{error.strerror or error}", kind="disk")
            except Exception as error:  # those of onnxruntime share no base class
                self.say(number, error=f"{error or type(error).__name__}", kind="model")

    def say(self, number: int, **content: Any) -> None:
        """Write a line about a request."""
        self.answers.write(json.dumps({"id": number, **content}) + "\n")
        self.answers.flush()

    def missing(self, request: dict[str, Any]) -> list[str]:
        """Return which of `digests` are not here; the others count as used now."""
        found = []
        for digest in request["digests"]:
            path = self.file(digest)
            if path.exists():
                os.utime(path)
            else:
                found.append(digest)
        return found

    def put(self, request: dict[str, Any]) -> None:
        """Keep a file under its SHA-256; it arrives in parts, the last of which says so."""
        self.incoming.append(base64.b64decode(request["part"]))
        if not request["last"]:
            return
        content, self.incoming = b"".join(self.incoming), []
        digest = hashlib.sha256(content).hexdigest()
        if digest != request["file"]:
            raise RefusedError("request", f"a file arrived changed: {digest}")
        self.make_room(len(content), set(request["needed"]))
        path = self.file(digest)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def make_room(self, size: int, needed: set[str]) -> None:
        """Remove the files that were not used for longest until there is room for a new one."""
        self.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = sorted(self.files(), key=lambda path: path.stat().st_mtime)
        total = sum(path.stat().st_size for path in kept)
        for path in kept:
            free = shutil.disk_usage(self.workdir).free
            if total + size <= self.limit_bytes and free > size:
                return
            if path.name not in needed:
                total -= path.stat().st_size
                path.unlink()

    def file(self, digest: str) -> Path:
        """Return where a file is kept."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise RefusedError("request", "not a SHA-256")
        return self.workdir / digest

    def files(self) -> list[Path]:
        """Return the files that are kept, and what an interrupted `put` left."""
        if not self.workdir.exists():
            return []
        return [path for path in self.workdir.iterdir() if len(path.name.split(".")[0]) == 64]

    def clean(self, request: dict[str, Any]) -> dict[str, Any]:
        """Remove what this script keeps here; other files, and their folder, stay."""
        files = self.files()
        size = sum(path.stat().st_size for path in files)
        for path in [*files, self.workdir / "lock"]:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        with contextlib.suppress(OSError):
            self.workdir.rmdir()
        return {"files": len(files), "bytes": size}

    def session(self, model: Mapping[str, Any], request: Mapping[str, Any]) -> Any:
        """Start a session of a model that is kept here."""
        providers = [tuple(p) if isinstance(p, list) else p for p in request["providers"]]
        return started(str(self.file(model["model"])), providers, request["threads"])

    def feeds(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Read the inputs of a model."""
        import numpy as np

        with np.load(str(self.file(model["feeds"])), allow_pickle=False) as arrays:
            return {name: arrays[f"arr_{i}"] for i, name in enumerate(model["names"])}

    def call(self, model: Mapping[str, Any], request: Mapping[str, Any]) -> Call:
        """Prepare a model that is kept here."""
        session = self.session(model, request)
        return prepared(session, self.feeds(model), request["memory"])

    def measure(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time models in interleaved rounds, and write a line for each round."""
        with self.turn(request["id"]):
            watch = Watch()
            calls = {str(i): self.call(m, request) for i, m in enumerate(request["models"])}
            protocol = types.SimpleNamespace(**request["protocol"])
            for figures, repeats in rounds(calls, protocol, block_ms, time.perf_counter):
                self.say(request["id"], round=list(figures.values()), repeats=repeats)
                if self.stopped == request["id"]:
                    break
            return watch.state()

    def time(self, request: dict[str, Any]) -> float:
        """Return the ms that a number of calls of one model take."""
        with self.turn(request["id"]):
            return block_ms(self.call(request["models"][0], request), request["calls"])

    def single(self, request: dict[str, Any]) -> list[float]:
        """Time each call of one model by itself, see `single_calls_ms`."""
        with self.turn(request["id"]):
            return single_calls_ms(self.call(request["models"][0], request), **request["limits"])

    def infer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the names of a model's outputs, and the outputs as an npz file in base64."""
        import numpy as np

        model = request["models"][0]
        session = self.session(model, request)
        outputs = session.run(None, self.feeds(model))
        names = [value.name for value in session.get_outputs()]
        file = io.BytesIO()
        np.savez(file, *outputs)
        return {"names": names, "npz": base64.b64encode(file.getvalue()).decode()}

    @contextlib.contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """Wait until no other process measures here; the system frees a dead one's lock."""
        import fcntl

        self.workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.workdir / "lock").open("a+") as lock:
            waited = 0.0
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if waited % TURN_S < 0.1:
                        lock.seek(0)
                        self.say(number, waiting=lock.read(200))
                    time.sleep(0.1)
                    waited += 0.1
            lock.seek(0)
            lock.truncate()
            client = os.environ.get("SSH_CLIENT", "").split(" ")[0]
            lock.write(f"process {os.getpid()}" + (f" for {client}" if client else ""))
            lock.flush()
            yield
