"""What a device that is elsewhere is, how steadily it measures, and what is missing on it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hwnas.errors import DeviceError, HwnasError, RuntimeMissingError
from hwnas.latency_tables.measuring.speed_reference import NAME, reference_graph
from hwnas.latency_tables.remote.connection import Facts
from hwnas.latency_tables.remote.inventory import Device
from hwnas.latency_tables.remote.runtime import MOST_OTHERS, RemoteRuntime
from hwnas.latency_tables.timing import Protocol

SESSIONS = 3
PROTOCOL = Protocol(warmup_s=0.1, blocks_per_round=1, min_rounds=100, max_rounds=100, max_repeats=0)
MOST_SPREAD = 0.03
"""Relative difference between sessions of the speed reference above which a device is noisy."""
MOST_CLOCK_OFF_S = 60.0
STEADY = "performance"
"""The governor that keeps a processor at one speed."""


@dataclass(frozen=True)
class Steadiness:
    """The speed reference on a device.

    Attributes:
        reference: its name.
        sessions_ms: its time in each session.
        spread: relative difference between the slowest and the fastest session.
        others_cores: processor cores that other programs used meanwhile; None if not known.
    """

    reference: str
    sessions_ms: tuple[float, ...]
    spread: float
    others_cores: float | None


@dataclass(frozen=True)
class Probe:
    """What was found about a device.

    Attributes:
        name: in `devices.toml`.
        facts: what the device says of itself.
        clock_off_s: by how many seconds its clock is ahead of this machine's.
        steadiness: None if it cannot measure.
        problems: what is missing or makes its figures doubtful, and what to do, in words.
        can_measure: whether it has all that a measurement needs.
    """

    name: str
    facts: Facts
    clock_off_s: float
    steadiness: Steadiness | None
    problems: list[str]
    can_measure: bool

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self) | {"facts": self.facts.model_dump()}


def probe(device: Device) -> Probe:
    """Log in to a device and find out what it is and how steadily it measures.

    Raises:
        DeviceError: it cannot be reached, or has no Python that is new enough.
        RuntimeMissingError: the program that reaches it is not installed here.
    """
    runtime = RemoteRuntime(device, device.runtime, device.threads)
    try:
        facts, problems = runtime.connection.facts, []
        steadiness = None
        try:
            runtime.require()
            steadiness = _steadiness(runtime)
        except (RuntimeMissingError, DeviceError) as error:
            problems.append(_without_name(error, device.name))
        clock_off_s = runtime.connection.clock_off_s
    finally:
        runtime.connection.close()
    problems += _remarks(facts, clock_off_s, steadiness)
    return Probe(
        device.name, facts, clock_off_s, steadiness, problems, can_measure=steadiness is not None
    )


def _steadiness(runtime: RemoteRuntime) -> Steadiness:
    graph = reference_graph()
    sessions, others = [], []
    for _ in range(SESSIONS):
        found = runtime.measure({NAME: runtime.prepare_onnx(graph.model, graph.feeds)}, PROTOCOL)
        sessions.append(found[NAME].summary.value_ms)
        state = runtime.connection.state
        if state is not None and state.others_cores is not None:
            others.append(state.others_cores)
    spread = max(sessions) / min(sessions) - 1
    return Steadiness(NAME, tuple(sessions), spread, float(np.median(others)) if others else None)


def _remarks(facts: Facts, clock_off_s: float, steadiness: Steadiness | None) -> list[str]:
    """What makes figures doubtful, each with what to do."""
    remarks = []
    if abs(clock_off_s) > MOST_CLOCK_OFF_S:
        amount = f"{abs(clock_off_s) / 86400:.0f} days"
        if abs(clock_off_s) < 2 * 86400:
            amount = f"{math.ceil(abs(clock_off_s) / 60)} minutes"
        side = "ahead" if clock_off_s > 0 else "behind"
        remarks.append(
            f"its clock is {amount} {side}; no figure depends on it, but installing packages may "
            "fail: `sudo timedatectl set-ntp true`"
        )
    if facts.governors and facts.governors != [STEADY]:
        remarks.append(
            f"the frequency governor is {', '.join(facts.governors)}, which changes the clock "
            f"during a measurement: `sudo cpupower frequency-set -g {STEADY}`"
        )
    if steadiness is None:
        return remarks
    if steadiness.spread > MOST_SPREAD:
        remarks.append(
            f"sessions of the same network differ by {steadiness.spread:.1%}: wait until the "
            "device is quiet and cool, and measure for longer"
        )
    if (steadiness.others_cores or 0.0) > MOST_OTHERS:
        remarks.append(
            f"other programs use {steadiness.others_cores:.1f} processor cores: `top` shows them"
        )
    return remarks


def _without_name(error: HwnasError, name: str) -> str:
    return str(error).removeprefix(f"{name}: ")
