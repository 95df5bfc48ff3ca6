"""Where a run's model is deployed: the runtime, the latency tables, and the budgets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import latency_range_ms
from hwnas.budget.gate import NetworkLatency
from hwnas.budget.limit import Limit
from hwnas.budget.selection import EVENT as MEASUREMENT
from hwnas.budget.sizes import KB, SizeLimits
from hwnas.budget.speed import MachineSpeed, RecordedSpeed
from hwnas.calibration.networks import read_measurements, to_text
from hwnas.config import Config
from hwnas.deploy.microcontroller.sizes import layer_sizes
from hwnas.errors import InputError
from hwnas.latency_tables.remote.choosing import runtime_on
from hwnas.latency_tables.runtimes import Runtime
from hwnas.latency_tables.table import DeviceProfile, LatencyTable
from hwnas.pipeline.problem import Problem
from hwnas.reporting.formatting import number
from hwnas.runs.run_folder import RunFolder

SPEED_EVENT = "machine speed"
"""Event of records in a run's history that say how fast the machine was during a check."""


@dataclass
class Target:
    """The devices that the model has to be fast enough on.

    The first one is usually this machine. It may also be elsewhere: then it is logged in to
    (`latency.device`), or a file with measured latencies of networks stands for it
    (`latency.device_measurements`). Budgets on further
    devices are kept by the predictions of their tables.

    Attributes:
        config: the resolved configuration.
        folder: has the run's copies of the latency tables.
        problem: has the search space whose networks are timed.
    """

    config: Config
    folder: RunFolder
    problem: Problem

    @cached_property
    def runtime(self) -> Runtime:
        """What runs the deployed model, here or on the device that `latency.device` names.

        Raises:
            DeviceError: when that device cannot be reached.
            RuntimeMissingError: when the runtime is not there.
        """
        latency = self.config.latency
        runtime = runtime_on(latency.device, latency.runtime, latency.threads)
        runtime.require()
        return runtime

    def profile(self) -> DeviceProfile:
        """This device and the latency settings, as a table has to state them."""
        latency = self.config.latency
        return self.runtime.profile(dtype=latency.dtype, batch=latency.batch)

    @property
    def profile_command(self) -> str:
        """The command that measures the operators of this run's search space."""
        return f"hwnas profile {self.folder.config} --out TABLE.json"

    @cached_property
    def device_measurements(self) -> dict[Architecture, float] | None:
        """Latencies in ms of networks on a device that is elsewhere; None to measure on this one.

        Raises:
            InputError: when the file is missing or malformed.
        """
        path = self.config.latency.device_measurements
        if path is None:
            return None
        networks, latency_ms = read_measurements(Path(path), self.problem.space)
        return dict(zip(networks, latency_ms.tolist(), strict=True))

    def stated_latency(self, architecture: Architecture) -> NetworkLatency:
        """The latency of a network in the file `latency.device_measurements`.

        Raises:
            InputError: when the file does not have it.
        """
        assert self.device_measurements is not None
        latency_ms = self.device_measurements.get(architecture)
        path = self.config.latency.device_measurements
        if latency_ms is None:
            raise InputError(
                "the file with the device's latencies does not have this network",
                where=str(path),
                expected=to_text(self.problem.space, architecture),
                actual=f"{len(self.device_measurements)} others",
            )
        return NetworkLatency.stated(latency_ms, f"file {Path(path or '').name}")

    @cached_property
    def cost(self) -> CostModel:
        """The cost model of the run's latency table."""
        self.folder.require(self.folder.latency_table)
        table = LatencyTable.load(self.folder.latency_table)
        cost = CostModel(self.problem.space, table, command=self.profile_command)
        return cost.with_fixed(self.preprocessing_ms)

    @property
    def preprocessing_ms(self) -> float:
        """What normalising raw inputs adds to each network, in ms; 0 unless the model does so."""
        if not self.config.export.preprocess:
            return 0.0
        self.folder.require(self.folder.preprocessing)
        return float(self.folder.read_json(self.folder.preprocessing)["added_ms"])

    def recorded_speed(self) -> RecordedSpeed:
        """What the speed reference took on this runtime in the profile, the search and checks.

        Nothing if the run's latency table is of another device than this one.
        """
        if not self.folder.latency_table.exists():
            return RecordedSpeed()
        table, here = LatencyTable.load(self.folder.latency_table), self.profile()
        if table.device.differences(here, ("device", "threads")):
            return RecordedSpeed()
        measured = [
            record["measured"]
            for record in self.folder.read_history()
            if record["event"] in (MEASUREMENT, SPEED_EVENT)
        ]
        known = [
            MachineSpeed.from_json(found["speed"])
            for found in measured
            if found["runtime"] == here.runtime and found.get("speed") is not None
        ]
        profiled = table.reference if table.device.runtime == here.runtime else None
        return RecordedSpeed.of(profiled, known)

    @cached_property
    def latency_range_ms(self) -> tuple[float, float]:
        """Predicted latencies of the fastest and of the slowest network of the space."""
        return latency_range_ms(self.cost)

    def budget_ms(self) -> float:
        """The budget in milliseconds, also where the configuration states it as a fraction.

        Raises:
            InputError: when it is below the fastest predicted network; names the range. Of a
                network that is shrunk, only the measured original tells.
        """
        fastest_ms, slowest_ms = self.latency_range_ms
        budget = self.config.budget
        if budget.fraction is not None:
            return fastest_ms + budget.fraction * (slowest_ms - fastest_ms)
        assert budget.ms is not None
        if budget.ms < fastest_ms and self.config.shrink is None:
            raise InputError(
                "no architecture keeps the budget",
                where="budget.ms",
                expected=f"between {fastest_ms:.4g} ms (fastest predicted network) and "
                f"{slowest_ms:.4g} ms (slowest)",
                actual=f"{budget.ms:.4g} ms",
                mend="raise the budget or make the space smaller",
            )
        return budget.ms

    def loose_budget(self, budget_ms: float | None = None) -> str | None:
        """A sentence about a latency budget that rules out no network of the space.

        With a confidence, the budget applies to upper bounds of predictions; then nothing is said.

        Args:
            budget_ms: the run's own budget if None.

        Returns:
            The sentence, or None if the budget is below the slowest predicted latency.
        """
        budget_ms = self.budget_ms() if budget_ms is None else budget_ms
        _, slowest_ms = self.latency_range_ms
        if self.config.budget.confidence is not None or budget_ms < slowest_ms:
            return None
        return (
            f"the latency budget of {number(budget_ms)} ms rules out no network: the slowest one "
            f"of the search space is predicted to take {number(slowest_ms)} ms; state a smaller "
            "budget, or make the space larger"
        )

    def limits(self) -> list[Limit]:
        """The budgets of all devices, the first device's first."""
        confidence = self.config.budget.confidence
        limits = [Limit(self.cost, self.budget_ms(), confidence, self.sizes)]
        for path, device in zip(self.further_tables, self.config.devices, strict=True):
            cost = CostModel(self.problem.space, LatencyTable.load(path))
            limits.append(Limit(cost, device.budget_ms, confidence))
        return limits

    @cached_property
    def sizes(self) -> SizeLimits | None:
        """The exact limits of memory and work on a microcontroller; None if there are none.

        Raises:
            InputError: when the space is none of layers, its networks have no integer form, or
                none of them keeps a limit.
        """
        budget = self.config.budget
        if not budget.has_sizes:
            return None
        space = self.problem.space
        limits = SizeLimits(
            layer_sizes(space, "budget"),
            None if budget.ram_kb is None else budget.ram_kb * KB,
            None if budget.flash_kb is None else budget.flash_kb * KB,
            budget.macs,
        )
        limits.require_possible(space.mask.numpy())
        return limits

    @property
    def further_tables(self) -> list[Path]:
        """The run's copies of the latency tables of further devices."""
        return self.folder.device_tables(len(self.config.devices))
