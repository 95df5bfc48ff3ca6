"""Latency prediction for architectures and mixtures from a latency table."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from hwnas.architecture import Architecture, Mixture
from hwnas.budget.coefficients import Coefficients, architecture_features, features
from hwnas.errors import InputError
from hwnas.latency_tables.calibration import Calibration, deployed_edges
from hwnas.latency_tables.table import LatencyTable
from hwnas.spaces.base import SearchSpace

# Prior uncertainty of a sum of separately measured operators, as relative standard deviations of:
# all coefficients together (a machine can run at different clock speeds), the fixed part, the
# overhead of launching an operator, all operators of one name, and each operator on its own.
SCALE, FIXED, LAUNCH, OPERATOR, SINGLE = 0.3, 0.1, 0.03, 0.03, 0.03
NETWORK_NOISE = 0.02
"""Relative standard deviation of a network's latency around the sum of known coefficients."""
CALIBRATED_SCALE = 0.02
"""Relative standard deviation of all coefficients of a calibrated table from day to day."""


class CostModel:
    """Predicts latencies in a search space from a latency table.

    Calling it with a mixture returns the expected latency, which is differentiable:

        fixed_ms + sum_choice sum_part P(part runs) cost_ms[choice, part]
        - sum_work E(times saved) shared_ms[work]

    The search space supplies the probabilities and counts for the deployed network; for example,
    of a DARTS cell only the edges that are kept contribute. For a one-hot mixture the sum is the
    prediction for that architecture: the sum of the table's operator latencies, or of its
    calibrated coefficients if the table has a calibration for this space.

    Attributes:
        space: the search space at its deployed sizes.
        edges: which edges of a cell the runtime executes.
        coefficients: coefficients of the sum, with their uncertainty.
    """

    def __init__(
        self, space: SearchSpace, table: LatencyTable, *, command: str = "hwnas profile"
    ) -> None:
        """Read the coefficients from the table.

        Args:
            space: the search space at its deployed sizes.
            table: latencies of operators, or a calibration from measured networks.
            command: command that measures missing operators, for the error message.

        Raises:
            InputError: the table has neither a calibration for the space nor all its operators.
        """
        self.space = space
        calibration = table.calibration
        if calibration is not None and is_calibrated_for(space, calibration):
            self.edges = calibration.edges
            self.coefficients = _calibrated(space, calibration)
            return
        if calibration is not None and not table.operators:
            raise InputError(
                "the latency table is calibrated for another search space or other sizes",
                where=table.device.device,
                expected=f"{space.name} {space.options.model_dump()}",
                actual=f"{calibration.space} {calibration.space_options}",
            )
        table.require(space.all_operators(), command)
        self.edges = deployed_edges(table.device.runtime)
        self.coefficients = _from_operators(space, table)

    @property
    def fixed_ms(self) -> float:
        """Latency of the parts that run in every network, in milliseconds."""
        return float(self.coefficients.mean[0])

    @property
    def cost_ms(self) -> np.ndarray:
        """Latency (choices, max_parts) that each part adds if it runs, in milliseconds."""
        shape = len(self.space.choices), self.space.max_parts
        return self.coefficients.mean[1 : 1 + math.prod(shape)].reshape(shape)

    @property
    def shared_ms(self) -> np.ndarray:
        """Latency (shared,) of the work that several operators can share, in milliseconds."""
        return self.coefficients.mean[self.space.first_shared :]

    def __call__(self, mixture: Mixture) -> Tensor:
        """Return the expected latency in milliseconds, with the mixture's dtype and device."""
        weights = mixture.weights
        cost_ms, shared_ms = (
            torch.as_tensor(ms, dtype=weights.dtype, device=weights.device)
            for ms in (self.cost_ms, self.shared_ms)
        )
        run_ms = (self.space.run_probability(weights, self.edges) * cost_ms).sum()
        return self.fixed_ms + run_ms - self.space.saved_work(weights, self.edges) @ shared_ms

    def corrected(
        self, architectures: Sequence[Architecture], latencies_ms: Sequence[float]
    ) -> CostModel:
        """Return the model conditioned on measured latencies of these architectures."""
        corrected = copy.copy(self)
        rows = architecture_features(self.space, architectures, self.edges)
        corrected.coefficients = self.coefficients.conditioned(rows, np.asarray(latencies_ms))
        return corrected

    def with_fixed(self, extra_ms: float) -> CostModel:
        """Return the model of networks that each take `extra_ms` more, such as to normalise."""
        slower = copy.copy(self)
        mean = self.coefficients.mean.copy()
        mean[0] += extra_ms
        slower.coefficients = replace(self.coefficients, mean=mean)
        return slower

    def latency_ms(self, architecture: Architecture) -> float:
        """Return the predicted latency of an architecture's network in milliseconds."""
        return float(self.predict([architecture])[0][0])

    def predict(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Return expected latencies and their standard deviations, (architectures,) ms each."""
        rows = architecture_features(self.space, architectures, self.edges)
        return self.coefficients.latency_ms(rows), self.coefficients.std_ms(rows)

    def operator_latencies_ms(self, architecture: Architecture) -> dict[str, float]:
        """Return the latency that each choice of an architecture adds, by name, and `fixed`.

        Work that several choices share is attributed to the first of them.
        """
        weights = self.space.one_hot(architecture).weights.double()
        runs = self.space.run_probability(weights, self.edges).numpy()
        shares = (runs * self.cost_ms).sum(axis=1)
        if self.edges == "once":
            for work, work_ms in zip(self.space.shared_work(), self.shared_ms, strict=True):
                wanting = [choice for choice, option in work.options if weights[choice, option]]
                shares[wanting[1:]] -= work_ms
        names = [choice.name for choice in self.space.choices]
        return {"fixed": self.fixed_ms, **dict(zip(names, shares.tolist(), strict=True))}


def is_calibrated_for(space: SearchSpace, calibration: Calibration) -> bool:
    """Return whether a calibration was made for this search space at these sizes.

    Sizes that the calibration does not state are the defaults of the space.
    """
    try:
        stated = space.options_model(**calibration.space_options)
    except ValidationError:
        return False
    return calibration.space == space.name and stated == space.options


def _calibrated(space: SearchSpace, calibration: Calibration) -> Coefficients:
    """Return the coefficients of a calibration in the order of the space's features."""
    shared = [work.name for work in space.shared_work()]
    mean = np.zeros(space.first_shared + len(shared))
    mean[0] = calibration.fixed_ms
    columns = [0]
    for name, parts in calibration.costs_ms.items():
        for part, cost_ms in parts.items():
            column = space.coefficient(name, part)
            mean[column] = cost_ms
            columns.append(column)
    for name, work_ms in calibration.shared_ms.items():
        if name not in shared:
            raise InputError(
                "the calibration has a shared work that the search space does not have",
                where=space.name,
                expected=shared,
                actual=name,
            )
        column = space.first_shared + shared.index(name)
        mean[column] = work_ms
        columns.append(column)
    factors = np.zeros((len(calibration.factors) + 1, len(mean)))
    for row, values in enumerate(calibration.factors):
        factors[row, columns] = values
    factors[-1] = CALIBRATED_SCALE * mean
    return Coefficients(mean, factors.T @ factors, max(calibration.noise, 1e-3))


def _from_operators(space: SearchSpace, table: LatencyTable) -> Coefficients:
    """Return the coefficients as sums of operator latencies, with their uncertainty."""
    fixed_ms = sum(
        count * table.latency_ms(spec) for spec, count in space.fixed_operators().items()
    )
    cost_ms = np.zeros((len(space.choices), space.max_parts))
    for row, parts in enumerate(space.parts):
        for column in range(len(parts)):
            counts = space.operators(row, column)
            cost_ms[row, column] = sum(n * table.latency_ms(spec) for spec, n in counts.items())
    shared_ms = [
        sum(n * table.latency_ms(spec) for spec, n in work.operators.items())
        for work in space.shared_work()
    ]
    mean = np.concatenate([[fixed_ms], cost_ms.ravel(), shared_ms])
    return Coefficients(mean, operator_covariance(space, mean, scale=SCALE), NETWORK_NOISE)


def operator_covariance(space: SearchSpace, mean: np.ndarray, *, scale: float) -> np.ndarray:
    """Return the prior covariance of coefficients that were measured operator by operator.

    Args:
        space: the search space.
        mean: (coefficients,) in ms.
        scale: relative standard deviation of all coefficients together.

    Returns:
        (coefficients, coefficients) in ms^2.
    """
    typical = features(space, _uniform(space), "live")[0]
    typical_ms = float(typical @ mean)
    launch = space.coefficient_launches
    launch[0] = 0
    launch_ms = typical_ms / max(float(typical @ launch), 1.0)
    # An option without operators has a cost of exactly 0, so it has no uncertainty.
    exists = launch > 0
    exists[0] = True
    names = space.coefficient_options
    factors = [scale * mean, LAUNCH * launch_ms * launch]
    factors.append(np.eye(1, len(mean))[0] * FIXED * typical_ms)
    for name in sorted(set(names) - {""}):
        of_name = np.array([other == name for other in names])
        factors.append(OPERATOR * mean * of_name)
    stacked = np.array(factors) * exists
    return stacked.T @ stacked + np.diag((SINGLE * mean * exists) ** 2)


def _uniform(space: SearchSpace) -> Tensor:
    """Return the mixture with equal weights of all options of each choice, as a batch of one."""
    weights = space.mask.double()
    return (weights / weights.sum(dim=1, keepdim=True)).unsqueeze(0)
