"""What a check observed of a model, and the gates of its budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwnas.checking.behaviour import Behaviour
from hwnas.checking.cold_start import ColdStart, cold_start_gates
from hwnas.checking.gates import Gate, budget_gate, energy_gates, memory_gates
from hwnas.checking.performance import Performance
from hwnas.checking.request import CheckRequest
from hwnas.checking.saturation import Saturation


@dataclass(frozen=True)
class Findings:
    """What a check observed.

    Attributes:
        behaviour: what the model computes.
        performance: how fast it is.
        memory_mb: peak memory of a session, if it was measured.
        cold_start: times of a new process, if they were measured.
        saturation: what an int8 model computes on other processors, if that can differ.
    """

    behaviour: Behaviour
    performance: Performance
    memory_mb: float | None = None
    cold_start: ColdStart | None = None
    saturation: Saturation | None = None

    @property
    def warnings(self) -> list[str]:
        """What makes the model's answers doubtful."""
        found = self.saturation
        own = [] if found is None or found.note is not None else [found.warning]
        return [*self.behaviour.warnings, *own]

    @property
    def notes(self) -> list[str]:
        """Remarks on what was observed beside the model's outputs."""
        note = None if self.saturation is None else self.saturation.note
        return [] if note is None else [note]

    def to_json(self) -> dict[str, Any]:
        """The fields of the check's document that are measured or compared."""
        return {
            **self.performance.to_json(),
            "memory_mb": self.memory_mb,
            "cold_start": self.cold_start and self.cold_start.to_json(),
            "saturation": self.saturation and self.saturation.to_json(),
            **self.behaviour.to_json(),
        }


def resource_gates(found: Findings, request: CheckRequest) -> list[Gate]:
    """Gates of the budgets of latency, memory, energy and cold start."""
    return [
        budget_gate(found.performance.latency, request.budget_ms),
        *memory_gates(found.memory_mb, request.memory_budget_mb),
        *energy_gates(found.performance.energy, request.energy_budget_mj),
        *cold_start_gates(found.cold_start, request),
    ]
