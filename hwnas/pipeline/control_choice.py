"""Which network each control is: of an architecture within the budget, or hand-made of a width."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from hwnas.architecture import Architecture
from hwnas.budget.decode import Decoder
from hwnas.budget.selection import FurtherBudgets, NetworkCosts, read_measurements
from hwnas.controls.decoded import random_architectures
from hwnas.controls.generators import GENERATORS
from hwnas.controls.handmade import FAMILIES, Family
from hwnas.controls.scaling import widest_within
from hwnas.data.inputs import NamedInput
from hwnas.deploy.microcontroller.sizes import network_size
from hwnas.errors import InputError
from hwnas.pipeline.candidates import measure_costs
from hwnas.pipeline.run import Run
from hwnas.runs import interruption
from hwnas.spaces.networks import Network
from hwnas.strategies.size_prior import By, largest_networks

SEARCHED = "searched"
"""Name of the run's model among the controls."""
RANDOM = "random-"
"""How the names of random networks begin."""
LARGEST: dict[str, By] = {"most-parameters": "parameters", "most-macs": "macs"}
"""Controls that are the largest networks within the budget, by what is counted."""

Say = Callable[[str], None]
"""Shows a short text."""


@dataclass(frozen=True)
class Control:
    """One control of a run.

    Attributes:
        name: its name.
        choices: options of its architecture by choice; None for a hand-made network.
        width: width of a hand-made network; None for an architecture.
        params: number of parameters.
        same_as: name of an earlier control, or `SEARCHED`, which is the same network.
        alone_ms: latency that was measured when it was chosen, which keeps the budget.
        error: why there is no such control, in a sentence; None if there is.
        choice_s: seconds that it took to find and measure it.
        training_s: seconds of its training; None before it ended.
    """

    name: str
    choices: dict[str, str] | None = None
    width: int | None = None
    params: int | None = None
    alone_ms: float | None = None
    same_as: str | None = None
    error: str | None = None
    choice_s: float = 0.0
    training_s: float | None = None

    @property
    def is_trained_itself(self) -> bool:
        """Whether it exists and is no other network's twin."""
        return self.error is None and self.same_as is None

    def network(self, run: Run) -> Network:
        """Its network with the initial weights of the run's seed, in training mode."""
        torch.manual_seed(run.seed("network"))
        space = run.problem.space
        if self.width is not None:
            return families(run)[self.name].build(space.options, self.width)
        assert self.choices is not None
        return space.network(Architecture.of(space.name, self.choices))

    def to_json(self) -> dict[str, Any]:
        """The content of its file."""
        return {"schema": 1, **asdict(self)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Control:
        """Read `to_json`."""
        return cls(**{key: value for key, value in document.items() if key != "schema"})


def families(run: Run) -> dict[str, Family]:
    """The hand-made networks that do what those of the run's space do."""
    return GENERATORS if run.problem.task.head == "image" else FAMILIES


def control_names(run: Run) -> list[str]:
    """The names of a run's controls."""
    numbers = range(1, run.config.controls + 1)
    return [*(f"{RANDOM}{number}" for number in numbers), *LARGEST, *families(run)]


def choose(run: Run, name: str, earlier: Sequence[Control], say: Say) -> Control:
    """Find the network of a control, which is measured to keep the run's budgets.

    Args:
        run: has an architecture.
        name: one of `control_names`.
        earlier: the controls that were chosen before, of which this one may be a twin.
        say: shows what was measured.

    Returns:
        The control, with an `error` where no such network keeps the budgets or reads the data.
    """
    started = time.monotonic()
    try:
        is_hand_made = name in families(run)
        control = _hand_made(run, name, say) if is_hand_made else _decoded(run, name, say)
    except InputError as error:
        control = Control(name, error=str(error))
    else:
        control = replace(control, same_as=_twin(run, control, earlier))
    return replace(control, choice_s=time.monotonic() - started)


def _hand_made(run: Run, name: str, say: Say) -> Control:
    """The widest network of a family; raises InputError when none is measured to keep the budget.

    It is not wider than the slowest network of the space, whatever the budget is.
    """
    if any(isinstance(one, NamedInput) for one in run.problem.input_shape):
        raise InputError("hand-made networks read images", actual="several inputs")
    family, options = families(run)[name], run.problem.space.options
    _, slowest_ms = run.target.latency_range_ms
    alone_ms: dict[int, float] = {}

    def keeps(network: Network) -> bool:
        if not _fits(run, network):
            return False
        costs = _costs(run, network, say)
        alone_ms[_parameters(network)] = costs.latency.value_ms
        return _are_kept(run, costs) and costs.latency.value_ms <= slowest_ms

    width = widest_within(family, options, keeps)
    if width is None:
        raise InputError(
            "no width was measured to keep the budget for certain",
            where=f"controls: {name}",
            expected=f"at most {run.target.budget_ms():.4g} ms",
        )
    params = _parameters(family.build(options, width))
    return Control(name, width=width, params=params, alone_ms=alone_ms[params])


def _decoded(run: Run, name: str, say: Say) -> Control:
    """The first architecture that is measured to keep the budgets; InputError where none is.

    As in the search, every measurement corrects the predictions.
    """
    space = run.problem.space
    here, *others = run.target.limits()
    known = read_measurements(run.folder, space.name)
    high_ms = {m.architecture: m.latency.ci_high_ms for m in known}
    tried: set[Architecture] = set()
    for attempt in range(run.config.search.max_measured):
        cost = here.cost.corrected(list(high_ms), list(high_ms.values()))
        decoder = Decoder([here.with_cost(cost), *others])
        architecture = _proposed(run, name, attempt, decoder, tried)
        network = space.network(architecture)
        costs = _costs(run, network, say)
        tried.add(architecture)
        high_ms[architecture] = costs.latency.ci_high_ms
        if _are_kept(run, costs):
            return Control(
                name,
                choices=dict(architecture.options),
                params=_parameters(network),
                alone_ms=costs.latency.value_ms,
            )
    raise InputError(
        "no network was measured to keep the budget",
        where=f"controls: {name}",
        expected=f"at most {run.target.budget_ms():.4g} ms",
        actual=f"more for each of {len(tried)}",
    )


def _proposed(
    run: Run, name: str, attempt: int, decoder: Decoder, tried: Collection[Architecture]
) -> Architecture:
    """The next architecture to measure; InputError when none keeps the predicted budget."""
    space = run.problem.space
    if name in LARGEST:
        ranking = largest_networks(space, decoder, LARGEST[name])
        found = next((a for a in ranking if a not in tried), None)
        # An exact decoder says in its error which budgets are possible.
        return decoder.best(np.zeros(space.mask.shape))[0] if found is None else found
    return random_architectures(space, decoder, 1, run.seed(f"control {name} {attempt}"))[0]


def _costs(run: Run, network: Network, say: Say) -> NetworkCosts:
    """What a network takes as it would be deployed."""
    interruption.stop_if_requested()
    budget_ms = run.target.budget_ms()
    network.drop_training_parts()
    costs = measure_costs(run, network.eval(), budget_ms)
    say(f"{costs.latency.value_ms:.3f} ms, budget {budget_ms:.3f} ms")
    return costs


def _are_kept(run: Run, costs: NetworkCosts) -> bool:
    """Whether the run's budgets are kept for certain."""
    further = FurtherBudgets(run.config.budget.memory_mb, run.config.budget.energy_mj)
    return costs.latency.gate(run.target.budget_ms()) == "pass" and further.kept_by(costs)


def _fits(run: Run, network: Network) -> bool:
    """Whether the run's limits of RAM, flash and multiply-accumulates are kept, if it has any."""
    sizes = run.target.sizes
    if sizes is None:
        return True
    return sizes.are_kept_by(network_size(network, run.problem.space.options.input_shape))


def _parameters(network: Network) -> int:
    """Parameters of the deployed network, without what only training needs."""
    network.drop_training_parts()
    return sum(tensor.numel() for tensor in network.parameters())


def _twin(run: Run, control: Control, earlier: Sequence[Control]) -> str | None:
    """The name of the same network among the run's model and the earlier controls."""
    if control.choices is None:
        return None
    if control.choices == dict(run.architecture().options):
        return SEARCHED
    return next((one.name for one in earlier if one.choices == control.choices), None)
