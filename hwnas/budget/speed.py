"""How fast the machine is, by the speed reference, and how much sessions differ from each other.

A session is a network prepared anew and measured for some rounds. Where its memory happens to lie,
and what else runs, moves its latency by more than the confidence interval of its rounds says. So a
network is measured in several sessions, each beside the speed reference of
`hwnas.latency_tables.measuring.speed_reference`. The spread of the sessions is part of the
interval. The time of the reference, compared with what it took on earlier occasions, tells how much
slower or faster than then the machine is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hwnas.latency_tables.measuring.speed_reference import NAME
from hwnas.latency_tables.rows import ReferenceSessions
from hwnas.latency_tables.statistics import session_spread, summarise

DRIFT_POWER = 2.0
"""A network is allowed to be slowed down by this power of the reference's drift. It is a cautious
assumption and not a measured value: networks need not respond to other work as the reference does,
and the larger the power, the more is left inconclusive in place of a failure."""
NOTABLE_DRIFT = 0.05
"""A drift of this share is stated in words."""


@dataclass(frozen=True)
class RecordedSpeed:
    """What the speed reference took on earlier occasions on the same device.

    Attributes:
        occasions_ms: its time on each occasion, such as the profile and each candidate.
        sessions_ms: its time in every single session of them.
    """

    occasions_ms: tuple[float, ...] = ()
    sessions_ms: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, table: ReferenceSessions | None, measured: Iterable[MachineSpeed | None]
    ) -> RecordedSpeed:
        """Collect the occasions of a run.

        Args:
            table: the reference's sessions in a latency table of the same device; one occasion,
                with the 10th percentile of its sessions.
            measured: the speed beside each network that was measured on it.
        """
        found = [speed.reference_ms for speed in measured if speed is not None]
        if table is None or table.name != NAME:
            return cls(tuple(found), tuple(found))
        profiled_ms = summarise(table.sessions_ms, "p10").value_ms
        return cls((profiled_ms, *found), (*table.sessions_ms, *found))

    @property
    def fastest_ms(self) -> float | None:
        """The time on the fastest occasion, since other work only slows a machine down."""
        return min(self.occasions_ms, default=None)


@dataclass(frozen=True)
class MachineSpeed:
    """How fast the machine was while a network was measured.

    Attributes:
        reference: name of the speed reference.
        reference_ms: its time, the median over the sessions.
        recorded_ms: its time on the fastest earlier occasion; None if there was none.
    """

    reference: str
    reference_ms: float
    recorded_ms: float | None

    @classmethod
    def of_sessions(cls, sessions_ms: Sequence[float], recorded: RecordedSpeed) -> MachineSpeed:
        """Compare the reference's sessions of one measurement with earlier occasions."""
        return cls(NAME, summarise(sessions_ms, "median").value_ms, recorded.fastest_ms)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> MachineSpeed:
        """Read what `to_json` returned."""
        return cls(content["reference"], content["reference_ms"], content["recorded_ms"])

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name, and the drift."""
        return asdict(self) | {"drift": self.drift}

    @property
    def drift(self) -> float | None:
        """How many times as long as recorded the reference took; None without a record."""
        return None if self.recorded_ms is None else self.reference_ms / self.recorded_ms

    @property
    def slowdown(self) -> float:
        """The largest factor, at least 1, by which the machine may have slowed a network down."""
        return float(max(1.0, self.drift or 1.0) ** DRIFT_POWER)

    @property
    def speedup(self) -> float:
        """The factor, at least 1, by which the machine was faster than on any other occasion."""
        return max(1.0, 1 / (self.drift or 1.0))

    def in_words(self) -> str:
        """A sentence about the drift."""
        if self.drift is None:
            return (
                f"the speed reference took {self.reference_ms:.4g} ms; no earlier time of it is "
                "known, so a slow machine cannot be told from a slow model"
            )
        if abs(self.drift - 1) < NOTABLE_DRIFT:
            how = "as fast as recorded"
        else:
            share, side = abs(self.drift - 1), "slower" if self.drift > 1 else "faster"
            how = f"{share:.0%} {side} than recorded"
        return (
            f"the machine was {how}: the speed reference took {self.reference_ms:.4g} ms, "
            f"{self.recorded_ms:.4g} ms on its fastest earlier occasion"
        )


def spread_of(
    network_ms: Sequence[float], reference_ms: Sequence[float], recorded: RecordedSpeed
) -> float:
    """Relative standard deviation of a network's latency between sessions.

    The larger of that of the network's own sessions and that of the reference's.
    """
    known = [sessions_ms for sessions_ms in (recorded.sessions_ms, reference_ms) if sessions_ms]
    own = session_spread([network_ms])
    return max(own, session_spread(known)) if known else own
