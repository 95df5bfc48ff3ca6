"""What a check is asked to do: budgets, limits of the gates, and the load of the serving test."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwnas.budget.speed import RecordedSpeed
from hwnas.config import CheckConfig


@dataclass(frozen=True)
class ServingLoad:
    """The load of the serving test.

    Attributes:
        threads: number of threads that call one session at the same time.
        seconds: duration of the test.
    """

    threads: int
    seconds: float


@dataclass(frozen=True)
class CheckRequest:
    """What a check is asked to do. A budget or a load that is None is not checked.

    Attributes:
        limits: limits of the gates and of a session, and the time for measuring the latency.
        budget_ms: latency budget in milliseconds.
        memory_budget_mb: budget of a session's peak memory in MB (10^6 bytes).
        energy_budget_mj: budget of the energy of one inference in millijoules.
        load_budget_ms: budget of the time to create a session, in a new process.
        first_budget_ms: budget of the time of the first inference of a new process.
        load: load of the serving test.
        lost: the score of the network that the model's reference was shrunk from, minus that of the
            reference; None if it was not shrunk.
        recorded: what the speed reference took on earlier occasions on this device.
    """

    limits: CheckConfig = field(default_factory=CheckConfig)
    budget_ms: float | None = None
    memory_budget_mb: float | None = None
    energy_budget_mj: float | None = None
    load_budget_ms: float | None = None
    first_budget_ms: float | None = None
    load: ServingLoad | None = None
    lost: float | None = None
    recorded: RecordedSpeed = field(default_factory=RecordedSpeed)
