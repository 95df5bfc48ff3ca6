"""The process on a device, at the other end of a local command's pipes.

The texts of `hwnas.latency_tables.on_device` are sent through the pipe that the requests take
later. A launcher on the command line compares their SHA-256 before it runs them, so nothing is
installed on the device, and no name of a file reaches its shell.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from hwnas.errors import DeviceError, printable
from hwnas.latency_tables.on_device.serve import GREETING
from hwnas.latency_tables.remote.transport import (
    CHANGED,
    CUT_SHORT,
    TOO_OLD,
    DeviceLostError,
    Transport,
)

MODULES = ("measure", "state", "serve")
"""Modules of `hwnas.latency_tables.on_device` that are sent, each after those that it imports."""
LAUNCHER = (
    f"import sys;sys.version_info>=(3,8) or sys.exit({TOO_OLD});import hashlib,json,types;"
    'sys.path[:1]==[""] and sys.path.pop(0);n,h,s=sys.argv[1:4];n=int(n);'
    f"b=sys.stdin.buffer.read(n);len(b)==n or sys.exit({CUT_SHORT});"
    f"hashlib.sha256(b).hexdigest()==h or sys.exit({CHANGED});"
    '[exec(compile(t,m,"exec"),sys.modules.setdefault(m,types.ModuleType(m)).__dict__)'
    " for m,t in json.loads(b).items()];"
    'sys.modules["hwnas.latency_tables.on_device.serve"].serve(json.loads(s))'
)
"""Runs on the device: compares the hash of the modules' texts before it runs them."""
GREETING_S = 60.0
"""Seconds that a device may take from the start of Python to its greeting."""
SILENT_S = 300.0
"""Seconds without a line after which a device that works on a request counts as lost."""
ENDING_S = 10.0
"""Seconds that a device has to end a measurement that is stopped."""
LONGEST_LINE, NOISE_LINES = 256 * 2**20, 200


class Peer(ABC):
    """What answers requests with lines: a process on a device, or a page in a browser.

    Attributes:
        name: of the device.
    """

    def __init__(self, name: str) -> None:
        """Begin without lines."""
        self.name = name
        self._lines: queue.Queue[bytes | None] = queue.Queue()

    @abstractmethod
    def greeting(self) -> Any:
        """Return what it says of itself, see `hwnas.latency_tables.on_device.state.facts`.

        Raises:
            DeviceError: it does not start.
        """

    @abstractmethod
    def write(self, request: Mapping[str, Any]) -> None:
        """Send a request.

        Raises:
            DeviceLostError: the connection has ended.
        """

    @abstractmethod
    def close(self) -> None:
        """End it, with what it is doing."""

    @abstractmethod
    def _failure(self) -> DeviceError:
        """Return why it has ended."""

    def answers(self, number: int) -> Iterator[dict[str, Any] | None]:
        """Yield the lines about a request, and None about every second without one.

        Raises:
            DeviceLostError: the connection ended, or nothing came for a long time.
        """
        silent_since = time.monotonic()
        while True:
            line = self._next(1.0)
            if line is None:
                if time.monotonic() - silent_since > SILENT_S:
                    raise DeviceLostError("the device is silent", where=self.name)
                yield None
                continue
            silent_since = time.monotonic()
            try:
                answer = json.loads(line)
            except ValueError:
                answer = None
            if not isinstance(answer, dict) or not isinstance(answer.get("id"), int):
                raise DeviceError(
                    "the device sent something else than an answer",
                    where=self.name,
                    actual=printable(line.decode("utf-8", "replace"), 80),
                )
            if answer["id"] == number:
                yield answer

    def _next(self, seconds: float) -> bytes | None:
        """The next line, or None after some seconds."""
        try:
            line = self._lines.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            return None
        if line is None:
            raise self._failure()
        return line


class Process(Peer):
    """The local command whose pipes lead to the process on the device."""

    def __init__(self, transport: Transport) -> None:
        """Start the command and send the program; `greeting` tells whether it runs."""
        super().__init__(transport.device.name)
        self._transport, device = transport, transport.device
        program = _program()
        settings = json.dumps(
            {"workdir": device.workdir, "disk_mb": device.disk_mb, "cpus": device.cpus}
        )
        digest = hashlib.sha256(program).hexdigest()
        words = [*device.words, "-c", LAUNCHER, str(len(program)), digest, settings]
        # A file, because a shared connection that stays open keeps the other end of a pipe.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._process = subprocess.Popen(
            transport.command(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # the terminal's Ctrl-C is for hwnas, which ends this process
        )
        self._has_greeted = False
        threading.Thread(target=self._listen, daemon=True).start()
        self._send(program)

    def greeting(self) -> Any:
        """See `Peer.greeting`; a login may print something before it."""
        end = time.monotonic() + GREETING_S
        for _ in range(NOISE_LINES):
            line = self._next(end - time.monotonic())
            if line is None:
                break
            text = line.decode("utf-8", "replace")
            if text.startswith(GREETING):
                self._has_greeted = True
                with contextlib.suppress(ValueError):
                    return json.loads(text.removeprefix(GREETING))
                return None
        raise DeviceError(
            "the device does not answer",
            where=self.name,
            expected=f"a greeting within {GREETING_S:.0f} s",
        )

    def write(self, request: Mapping[str, Any]) -> None:
        """See `Peer.write`."""
        self._send(json.dumps(request).encode() + b"\n")

    def close(self) -> None:
        """See `Peer.close`; what runs on the device ends with its stdin."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._errors.close()

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            raise self._failure() from None

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in iter(lambda: output.readline(LONGEST_LINE), b""):
                self._lines.put(line)
        self._lines.put(None)

    def _failure(self) -> DeviceError:
        try:
            code = self._process.wait(timeout=ENDING_S)
        except subprocess.TimeoutExpired:
            code = -1
        self._errors.seek(0)
        errors = self._errors.read().decode("utf-8", "replace")
        if self._has_greeted:
            last = printable((errors.strip().splitlines() or [f"exit code {code}"])[-1])
            return DeviceLostError("the connection was lost", where=self.name, actual=last)
        return self._transport.failure(code, errors)


def _program() -> bytes:
    """The modules that run on the device, as JSON of their texts by name."""
    folder = resources.files("hwnas.latency_tables.on_device")
    texts = {
        f"hwnas.latency_tables.on_device.{name}": (folder / f"{name}.py").read_text("utf-8")
        for name in MODULES
    }
    return json.dumps(texts).encode()
