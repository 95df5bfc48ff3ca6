"""Requests to a device, made again when the connection is lost."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwnas.errors import DeviceError, InputError, RuntimeMissingError, printable
from hwnas.latency_tables.remote.browser import Browser
from hwnas.latency_tables.remote.inventory import Device
from hwnas.latency_tables.remote.process import ENDING_S, Peer, Process
from hwnas.latency_tables.remote.transport import (
    DeviceLostError,
    Transport,
    require_program,
    transport_to,
)
from hwnas.latency_tables.rows import HOUR_MS
from hwnas.latency_tables.timing import Protocol, Round

logger = logging.getLogger("hwnas")
M = TypeVar("M", bound=BaseModel)
_Lines = Generator["dict[str, Any] | None"]
"""Lines about a request, and None about every second without one."""

PATIENCE_S = 180.0
"""Seconds for which a lost device is looked for, as one that starts again needs them."""
MOST_ENDINGS = 8
"""Times that a request may end the process on the device before it answers anything."""
LONGEST_PAUSE_S = 10.0
FIRST_ATTEMPTS = 3
"""How often a device is logged in to before it counts as out of reach."""
FIRST_PAUSE_S = 0.5
PART_BYTES = 192 * 1024
"""Size of the parts that files are sent in."""


class Facts(BaseModel):
    """What a device says of itself, see `hwnas.latency_tables.on_device.state.facts`."""

    model_config = ConfigDict(frozen=True)

    device: str = Field(min_length=1, max_length=500)
    architecture: str
    system: str
    cores: int | None
    versions: dict[str, str]
    providers: list[str]
    memory_mb: float | None
    free_memory_mb: float | None
    governors: list[str]
    clock_mhz: list[int]
    temperature_c: float | None
    time_s: float
    boot: str | None
    workdir: str
    gpu: str | None = None
    load: float | None = None
    free_disk_mb: float | None = None


@dataclass(frozen=True)
class RemoteModel:
    """A model and its inputs, as files that are named by their SHA-256.

    Attributes:
        model: digest of the serialised ONNX model.
        feeds: digest of the npz file of its inputs.
        names: of the inputs, in the order of that file.
    """

    model: str
    feeds: str
    names: tuple[str, ...]


class State(BaseModel):
    """What else happened on a device during a measurement.

    Attributes:
        others_cores: processor cores that other programs used on average; None if not known.
        seconds: duration of the measurement.
        throttled: whether the device lowered its clock for heat or power.
        temperature_c: of its hottest zone afterwards, in degrees Celsius; None if not known.
    """

    model_config = ConfigDict(frozen=True)

    others_cores: float | None
    seconds: float
    throttled: bool
    temperature_c: float | None


class Connection:
    """Requests to one device.

    Attributes:
        device: how it is reached.
        clock_off_s: by how many seconds its clock is ahead of this machine's.
        state: what else happened during the latest measurement.
    """

    def __init__(self, device: Device) -> None:
        """Keep the device, without connecting to it."""
        self.device = device
        self.clock_off_s = 0.0
        self.state: State | None = None
        self._transport: Transport = transport_to(device)
        self._process: Peer | None = None
        self._facts: Facts | None = None
        self._numbers = count()

    @property
    def facts(self) -> Facts:
        """What the device said of itself when it was first connected to.

        Raises:
            DeviceError: it cannot be reached, or has no Python that is new enough.
            RuntimeMissingError: the program of the transport is not installed here.
        """
        if self._facts is None:
            for left in reversed(range(FIRST_ATTEMPTS)):
                try:
                    self._open()
                    break
                except DeviceLostError:
                    # A login may be cut off; what is wrong for good stays wrong.
                    if not left:
                        raise
                    time.sleep(FIRST_PAUSE_S)
        assert self._facts is not None
        return self._facts

    def by_hand(self, command: str) -> str:
        """Return what a person types to run a command on the device."""
        return self._transport.by_hand(command)

    def close(self) -> None:
        """End the process on the device; the next request starts another."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def ask(self, do: str, files: Mapping[str, bytes] | None = None, **content: Any) -> Any:
        """Make a request, again if the connection is lost, and return its answer.

        Args:
            do: name of the request.
            files: by digest, what has to be on the device.
            content: the request's other fields.

        Raises:
            DeviceError: the device cannot be reached or cannot do what is asked.
            InputError: it cannot run the model.
            RuntimeMissingError: it does not have the runtime.
        """
        answer = None
        for line in self._persistently(lambda: self._request(do, files or {}, content)):
            if line is not None and "done" in line:
                answer = line["done"]
        return answer

    def rounds(
        self,
        models: list[RemoteModel],
        files: Mapping[str, bytes],
        protocol: Protocol,
        settings: Mapping[str, Any],
    ) -> Generator[Round | None]:
        """Measure models in interleaved rounds; a connection that is lost costs one round.

        Args:
            models: the first is the sentinel.
            files: by digest, what has to be on the device.
            protocol: the parameters of the measurement.
            settings: providers, threads and memory of the sessions.

        Yields:
            For each round the ms of one call of each model, in their order, and how often it was
            repeated; None about every second without a round.

        Raises:
            DeviceError, InputError, RuntimeMissingError: as for `ask`.
        """
        done, spent_s = 0, 0.0

        def request() -> _Lines:
            left = replace(
                protocol,
                max_rounds=protocol.max_rounds - done,
                time_limit_s=max(0.1, protocol.time_limit_s - spent_s),
            )
            content = {"models": [asdict(m) for m in models], "protocol": asdict(left), **settings}
            return self._request("measure", files, content)

        self.state = None
        began: float | None = None
        for line in self._persistently(request, lambda: done < protocol.max_rounds):  # noqa: B023
            if line is None:
                yield None
            elif "round" in line:
                done += 1
                now = time.monotonic()
                # What a further connection takes to start is no time of measuring.
                spent_s, began = spent_s + now - (began or now), now
                yield self._round(line, len(models))
            elif "done" in line:
                self.state = self._read(State, line["done"])
            else:
                began = None

    def _persistently(
        self, request: Callable[[], _Lines], is_wanted: Callable[[], bool] = lambda: True
    ) -> _Lines:
        """Yield the lines of a request, made again while the device gets lost and is found."""
        patience = _Patience(self.device.name)
        while is_wanted():
            lines = request()
            try:
                for line in lines:
                    if line is not None:
                        patience.saw(line)
                    yield line
                return
            except DeviceLostError as error:
                self.close()
                if self._facts is None:
                    raise
                for _ in patience.wait(error):
                    yield None
                if patience.attempts > 1:
                    self._transport.reset()
            finally:
                lines.close()

    def _request(self, do: str, files: Mapping[str, bytes], content: Mapping[str, Any]) -> _Lines:
        """Yield a line that says that the device answers, and then the lines of a request."""
        process = self._open()
        yield {}
        if files:
            missing: list[str] = []
            for line in self._lines(process, "missing", {"digests": sorted(files)}):
                missing = (line or {}).get("done", missing)
            for digest in missing:
                yield from self._put(process, digest, files[digest], sorted(files))
        yield from self._lines(process, do, content)

    def _put(self, process: Peer, digest: str, data: bytes, needed: list[str]) -> _Lines:
        for start in range(0, max(len(data), 1), PART_BYTES):
            part = base64.b64encode(data[start : start + PART_BYTES]).decode()
            last = start + PART_BYTES >= len(data)
            content = {"file": digest, "part": part, "last": last, "needed": needed}
            for line in self._lines(process, "put", content):
                yield None if line is None or "done" not in line else {"kept": digest}

    def _lines(self, process: Peer, do: str, content: Mapping[str, Any]) -> _Lines:
        """Yield the lines of one request up to that with `done`, and None about every second."""
        number, is_done = next(self._numbers), False
        process.write({"id": number, "do": do, **content})
        try:
            for line in process.answers(number):
                is_done = line is not None and ("done" in line or "error" in line)
                if line is not None and "waiting" in line:
                    logger.info("%s is measuring for %s", self.device.name, _said(line["waiting"]))
                if line is not None and "error" in line:
                    raise self._refusal(str(line["kind"]), printable(str(line["error"])))
                yield line
                if is_done:
                    return
        finally:
            if not is_done:
                self._stop(process, number)

    def _read(self, kind: type[M], content: Any) -> M:
        """What a device says, as a model.

        Raises:
            DeviceError: it says something else.
        """
        try:
            return kind.model_validate(content)
        except ValidationError as error:
            raise DeviceError(
                "the device says something else than it should",
                where=self.device.name,
                actual=printable(error.errors()[0]["msg"]),
            ) from None

    def _round(self, line: Mapping[str, Any], count: int) -> Round:
        """The times of a round, one for each model."""
        times_ms, repeats = line["round"], line.get("repeats")
        numbers = isinstance(times_ms, list) and len(times_ms) == count
        if not numbers or not all(type(t) in (int, float) and 0 < t < HOUR_MS for t in times_ms):
            raise DeviceError(
                "the device sent no times of a round",
                where=self.device.name,
                expected=f"{count} numbers of milliseconds above 0",
                actual=printable(str(times_ms), 80),
            )
        return Round(tuple(times_ms), repeats if isinstance(repeats, int) else 0)

    def _stop(self, process: Peer, number: int) -> None:
        """End a measurement that is left before its end, and take the state that it reports."""
        if process is not self._process:
            return
        try:
            process.write({"id": number, "do": "stop"})
            end = time.monotonic() + ENDING_S
            for line in process.answers(number):
                if line is not None and isinstance(line.get("done"), dict):
                    self.state = self._read(State, line["done"])
                if time.monotonic() > end or (line is not None and "done" in line):
                    return
        except DeviceError:
            self.close()

    def _refusal(self, kind: str, message: str) -> Exception:
        name = self.device.name
        match kind:
            case "provider":
                return RuntimeMissingError(message, where=name)
            case "disk":
                return DeviceError(
                    "cannot keep files in its work folder",
                    where=name,
                    actual=message,
                    mend="free some space, or name another `workdir` in devices.toml",
                )
            case "model":
                return InputError(
                    f"ONNX Runtime on the device cannot run the model: {message}", where=name
                )
        return DeviceError(f"the device refuses a request: {message}", where=name)

    def _open(self) -> Peer:
        if self._process is None:
            self._process = self._started()
            try:
                self._greeted(self._process)
            except BaseException:
                self.close()
                raise
        return self._process

    def _started(self) -> Peer:
        if self.device.transport == "browser":
            return Browser(self.device)
        require_program(self.device.transport, self.device.name)
        return Process(self._transport)

    def _greeted(self, process: Peer) -> None:
        """Take the greeting, and compare it with that of an earlier connection."""
        facts = self._read(Facts, process.greeting())
        self.clock_off_s = facts.time_s - time.time()
        earlier, self._facts = self._facts, facts
        if earlier is not None and earlier.boot != facts.boot:
            logger.warning("%s has started again", self.device.name)
        if earlier is not None and earlier.device != facts.device:
            raise DeviceError(
                "another device answers under this name",
                where=self.device.name,
                expected=earlier.device,
                actual=facts.device,
            )


class _Patience:
    """How long a device that gets lost is looked for, and how often one request may end it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._endings = 0
        self._lost_at: float | None = None
        self.attempts = 0

    def saw(self, line: Mapping[str, Any]) -> None:
        """Take notice of a line: an empty one says that the device is connected."""
        if self._lost_at is not None:
            logger.warning("%s is connected again", self._name)
        self._lost_at, self.attempts = None, 0
        if line:
            self._endings = 0

    def wait(self, error: DeviceLostError) -> Iterator[None]:
        """Pause before the next attempt; yields about every second.

        Raises:
            DeviceError: the device was looked for long enough, or its process ends every time.
        """
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
            self._endings += 1
            logger.warning("%s; connecting again", error)
        if self._endings > MOST_ENDINGS:
            raise DeviceError(
                f"its process ended {self._endings} times during one request",
                where=self._name,
                actual=error,
            ) from None
        if now - self._lost_at > PATIENCE_S:
            raise DeviceError(
                f"could not be reached for {PATIENCE_S:.0f} s", where=self._name, actual=error
            ) from None
        self.attempts += 1
        end = now + min(0.125 * 2**self.attempts, LONGEST_PAUSE_S)
        while (left := end - time.monotonic()) > 0:
            yield
            time.sleep(min(left, 1.0))


def _said(text: object) -> str:
    return printable(str(text)) or "another process"
