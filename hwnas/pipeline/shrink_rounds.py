"""The stage that makes a trained network smaller, round by round, until it keeps the budget.

Each round estimates what channels and blocks are worth, lets the decoder find what loses least
within the round's budget, measures it, and trains what is left for a short time with the original
network as the teacher. The budgets of the rounds go down in equal ratios from the latency of the
original.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder, latency_range_ms
from hwnas.budget.limit import Limit
from hwnas.budget.selection import Measured
from hwnas.config import ShrinkConfig
from hwnas.data.inputs import parts_of
from hwnas.durable import write_atomic
from hwnas.errors import InputError
from hwnas.pipeline.candidates import (
    candidate_selection,
    measure_architecture,
    reserve,
    with_reserve,
    write_architecture,
)
from hwnas.pipeline.own_problem import examples_of
from hwnas.pipeline.run import Run
from hwnas.pipeline.shrink_formats import find_formats, in_formats, write_formats
from hwnas.pipeline.train import training_of
from hwnas.runs import interruption
from hwnas.runs.checkpoints import (
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from hwnas.runs.progress import Advance
from hwnas.runs.run_folder import RunFolder
from hwnas.shrinking.channels import ChannelGroup, channel_groups
from hwnas.shrinking.importance import Batch, block_importance, mean_loss, unit_importance
from hwnas.shrinking.layers import KEEP
from hwnas.shrinking.space import ShrinkSpace
from hwnas.shrinking.worth import Worth
from hwnas.spaces.traced.space import TracedNetwork
from hwnas.training.evaluate import predictions
from hwnas.training.recalibration import recalibrate_norms
from hwnas.training.train import final_weights

logger = logging.getLogger("hwnas")
STAGE = "shrink"
"""Names the checkpoints of the rounds and their records in the history."""
ORIGINAL = "original"
"""The event of the record about the network as it was given."""
FORMATS = "formats"
"""The event of the record about the formats of the original's operators."""
FORMAT_TRIES = 3
"""Networks for which formats are chosen before all of the network stays float32."""
RECOVERY = "recovery"
"""How the names of the short trainings between rounds begin."""


def shrink_architecture(run: Run) -> Architecture:
    """Take away what costs more than it is worth, until the budget is kept.

    Writes `inherited.safetensors` with what is left of the weights, then `architecture.json`.

    Raises:
        InputError: when the budget is below what remains with everything removable gone, or the
            network does not fit the data.
        BudgetError: when no candidate kept the budget as measured.
        Interrupted: after a signal, with everything saved.
    """
    work = Rounds.begun(run)
    work.require_reachable(run)
    while work.done < work.config.rounds:
        work.next_round()
    chosen = work.measured[work.architecture]
    write_atomic(run.folder.inherited, save(final_weights(work.network())))
    write_architecture(run, in_formats(run.folder, chosen))
    remove_checkpoints(run.folder.checkpoints, STAGE)
    return work.architecture


def original_score(folder: RunFolder) -> float | None:
    """The score of the network as it was given; None in runs that shrink none."""
    for record in folder.read_history():
        if record["event"] == ORIGINAL:
            return float(record["supernet_accuracy"])
    return None


@dataclass
class Rounds:
    """A network on its way to its budget.

    Attributes:
        run: the run.
        model: what is left of the network, in evaluation mode.
        architecture: of that.
        done: rounds that are done.
        ratio: latency that the network is expected to have in the formats of its operators, as a
            share of its latency in float32, in which all is predicted and measured.
        measured: networks that were measured, the original among them.
        groups: the groups of channels in the network.
        units: the importance of each of their units, by group.
        worth: what the options of the space are worth, as estimated last.
    """

    run: Run
    model: nn.Module
    architecture: Architecture
    done: int = 0
    ratio: float = 1.0
    measured: dict[Architecture, Measured] = field(default_factory=dict)
    groups: list[ChannelGroup] = field(default_factory=list)
    units: dict[str, np.ndarray] = field(default_factory=dict)
    worth: Worth = field(init=False)

    @classmethod
    def begun(cls, run: Run) -> Rounds:
        """The rounds of a run, from where an earlier call stopped."""
        space = run.problem.space
        assert isinstance(space, ShrinkSpace)
        work = cls(run, copy.deepcopy(space.model).to(run.device), space.whole)
        work._know_original()
        if work.config.variant != "fp32":
            work._know_formats()
        kept = load_checkpoint(run.folder.checkpoints, STAGE)
        if kept is not None:
            work.done, state = kept
            work.architecture = Architecture.of(space.name, state["choices"])
            work.model = space.module(work.architecture).to(run.device)
            work.model.load_state_dict(state["weights"])
        for record in run.folder.read_history():
            if record["event"] == STAGE and record["step"] <= work.done:
                work._remember(Measured.from_json(record, space.name))
        return work

    @property
    def space(self) -> ShrinkSpace:
        """The space of everything that the network can become."""
        space = self.run.problem.space
        assert isinstance(space, ShrinkSpace)
        return space

    @property
    def config(self) -> ShrinkConfig:
        """The settings of the rounds."""
        assert self.run.config.shrink is not None
        return self.run.config.shrink

    def require_reachable(self, run: Run) -> None:
        """Write the budget of a run to its history.

        Raises:
            InputError: when it is below what remains with everything removable gone, by the
                table's predictions as the measured original corrects them.
        """
        limits = self._limits(run, self.ratio)
        limits[0] = limits[0].with_cost(self._corrected())
        Decoder(limits).best(np.zeros(self.space.mask.shape))
        if not any(record["event"] == "budget" for record in run.folder.read_history()):
            fastest_ms, slowest_ms = latency_range_ms(limits[0].cost)
            record = {"budget_ms": run.target.budget_ms(), "fastest_ms": fastest_ms}
            run.folder.append_history({"event": "budget", **record, "slowest_ms": slowest_ms})

    def _limits(self, run: Run, ratio: float) -> list[Limit]:
        """The budgets of a run for a network in float32.

        Args:
            run: this run, or a member of its family.
            ratio: see `ratio`.
        """
        first, *others = run.target.limits()
        return [replace(first, budget_ms=first.budget_ms / ratio), *others]

    def _corrected(self) -> CostModel:
        """The table's predictions, corrected by everything that was measured."""
        known = self.measured
        latencies_ms = [m.latency.ci_high_ms for m in known.values()]
        return self.run.target.cost.corrected(list(known), latencies_ms)

    def next_round(self) -> None:
        """Take away what the next budget asks for, measure what is left, and train it."""
        number = self.done + 1
        is_last = number == self.config.rounds
        chosen = self._chosen(number)
        self.model = self._shrunk(chosen.architecture).model
        self.architecture = chosen.architecture
        self._remember(chosen)
        if not is_last and self.config.recovery_epochs:
            self._recover(number)
        self.done = number
        record = chosen.to_json() | {"event": STAGE, "step": number}
        record |= {"budget_ms": self._budget_ms(number), "recovered": self._test_score()}
        self.run.folder.append_history(record)
        state = {"weights": self.model.state_dict(), "choices": dict(chosen.architecture.options)}
        save_checkpoint(self.run.folder.checkpoints, STAGE, number, state)
        remove_checkpoints(self.run.folder.checkpoints, f"{RECOVERY}-{number}")

    def _know_original(self) -> None:
        """Measure the network as it was given and score it, unless the history knows both."""
        run, whole = self.run, self.space.whole
        known = [r for r in run.folder.read_history() if r["event"] == ORIGINAL]
        if not known:
            with run.stage(ORIGINAL) as advance:
                score = self._required_score()
                advance(0, 1, "measuring")
                costs = measure_architecture(run, whole, None)
                advance(1, 1, f"{costs.latency.value_ms:.3f} ms, score {score:.4f}")
            measured = Measured(whole, run.target.cost.latency_ms(whole), score, costs)
            params, macs = self.space.params_and_macs(whole)
            left = [{"layer": one.name, "reason": one.reason} for one in self.space.left]
            facts = {"event": ORIGINAL, "params": params, "macs": macs, "left": left}
            known = [measured.to_json() | facts]
            run.folder.append_history(known[0])
        self._remember(Measured.from_json(known[0], self.space.name))

    def _know_formats(self) -> None:
        """Measure how much faster the original is in other formats, unless the history knows."""
        known = [r for r in self.run.folder.read_history() if r["event"] == FORMATS]
        if not known:
            found = find_formats(self.run, self.network().eval())
            known = [{"event": FORMATS, "ratio": 1.0 if found is None else found.ratio}]
            self.run.folder.append_history(known[0])
        self.ratio = float(known[0]["ratio"])

    def network(self) -> TracedNetwork:
        """What is left of the network, as one that is trained and exported."""
        return self.space.network_of(self.model, self.architecture)

    def _test_score(self) -> float:
        """The score of the network on the test samples, which decides nothing."""
        task, dataset = self.run.problem.task, self.run.problem.dataset
        found = predictions(self.network(), dataset.test, dataset, self.run.device)
        return task.score(found)

    def _required_score(self) -> float:
        """The score of the original on the test samples.

        Raises:
            InputError: when it is not above that of an answer that ignores the inputs.
        """
        task = self.run.problem.task
        score = self._test_score()
        chance = task.constant_score(self.run.problem.dataset.test.targets)
        if chance is not None and score <= chance:
            raise InputError(
                "the model knows nothing of these data",
                where="model",
                expected=f"a {task.metric} above {chance:.4f}, which ignoring the inputs gives",
                actual=f"{score:.4f}",
                mend="load its weights, and state the shrink.mean and shrink.std that its inputs "
                "were normalised with",
            )
        return score

    def _budget_ms(self, number: int) -> float:
        """The budget of a round; that of the last is the run's own."""
        whole_ms = self.measured[self.space.whole].latency.value_ms
        budget_ms = self._limits(self.run, self.ratio)[0].budget_ms
        if number == self.config.rounds or budget_ms >= whole_ms:
            return budget_ms
        share: float = (budget_ms / whole_ms) ** (number / self.config.rounds)
        return whole_ms * share

    def _chosen(self, number: int) -> Measured:
        """What a round's budget leaves of the network."""
        self.estimate(number)
        if number == self.config.rounds:
            return self.selected(self.run)
        return self._best_predicted(self._budget_ms(number), f"round {number}")

    def selected(self, run: Run) -> Measured:
        """The candidate that scores best among those that keep a run's budget as measured.

        With formats of operators, a network is selected for the budget of float32, and its formats
        are chosen by its own latency. If they do not keep the budget, the next network is selected
        with the ratio that this one reached. The formats are written to `formats.json`.

        Args:
            run: this run, or a member of its family.

        Raises:
            InputError: no architecture is predicted to keep the budget.
            BudgetError: no measured candidate keeps it.
            UndecidedError: the measurements are too noisy to tell.
        """
        run.folder.formats.unlink(missing_ok=True)
        ratio, kept = self.ratio, 1 - reserve(run)
        for _ in range(FORMAT_TRIES):
            chosen = self._selected(run, ratio)
            limit = kept * run.target.budget_ms() / chosen.latency.value_ms
            if ratio >= 1.0 or limit >= 1.0:
                return chosen
            formats = find_formats(run, self._shrunk(chosen.architecture), limit)
            if formats is not None and formats.ratio <= limit:
                write_formats(run.folder, formats)
                return chosen
            ratio = 1.0 if formats is None else formats.ratio
        return self._selected(run, 1.0)

    def _selected(self, run: Run, ratio: float) -> Measured:
        """The candidate that scores best in float32; arguments and errors as above."""
        with run.stage("measure") as advance:
            return with_reserve(
                run,
                self._limits(run, ratio),
                lambda limits: self._measured_within(run, limits, advance),
            )

    def _measured_within(self, run: Run, limits: Sequence[Limit], advance: Advance) -> Measured:
        """The candidate that scores best within these limits; remembers all that it measured."""
        selection = candidate_selection(
            run,
            self.worth,
            limits,
            lambda found: [self._score(self._shrunk(a)) for a in found],
            advance,
            earlier=list(self.measured.values()),
        )
        try:
            return selection.run()
        finally:
            for measured in selection.measured.values():
                self._remember(measured)

    def _best_predicted(self, budget_ms: float, title: str) -> Measured:
        """The architecture that loses least within a budget on the way, measured.

        It is the network as it is, if the measurements leave nothing within that budget.
        """
        limits, cost = self.run.target.limits(), self.run.target.cost
        limits[0] = Limit(self._corrected(), budget_ms, limits[0].confidence)
        with self.run.stage(title) as advance:
            advance(0, 1, "decoding and measuring")
            try:
                (found,) = self.worth.best(Decoder(limits))
            except InputError:
                found = self.architecture
            chosen = self.measured.get(found)
            if chosen is None:
                predicted_ms, score = cost.latency_ms(found), self._score(self._shrunk(found))
                costs = measure_architecture(self.run, found, None)
                chosen = Measured(found, predicted_ms, score, costs)
            advance(1, 1, f"{chosen.latency.value_ms:.3f} ms, budget {budget_ms:.3f} ms")
        return chosen

    def estimate(self, number: int) -> None:
        """Estimate what the options are worth in the network as it is in a round."""
        config, loss_of = self.config, self.run.problem.task.loss
        batches = self._batches(
            f"importance {number}", config.importance_batches, self.architecture
        )
        examples = parts_of(examples_of(self.run.problem.dataset))
        groups, _ = channel_groups(copy.deepcopy(self.model).cpu(), examples)
        self.groups = groups = [group for group in groups if self.space.has(group)]
        self.units = unit_importance(self.model, groups, batches, loss_of, config.importance)
        chosen = self.space.chosen(self.architecture)
        paths = [path for path, row in self.space.blocks.items() if chosen[row] == KEEP]
        blocks = block_importance(self.model, paths, batches, loss_of)
        sizes = self._size_importance(f"importance {number}")
        self.worth = Worth.of(self.space, self.architecture, groups, self.units, blocks, sizes)

    def _size_importance(self, purpose: str) -> list[float]:
        """By how much the loss grows at each size of the input, at least 0; none if it stays."""
        if self.space.size_row is None:
            return []
        current, losses = self.space.chosen(self.architecture)[self.space.size_row], []
        for option in range(len(self.space.sizes)):
            architecture = self.space.at_size(self.architecture, option)
            model = copy.deepcopy(self.model)
            if option != current:
                self._recalibrate(model, architecture)
            batches = self._batches(purpose, self.config.importance_batches, architecture)
            losses.append(mean_loss(model, batches, self.run.problem.task.loss))
        return [max(0.0, loss - losses[current]) for loss in losses]

    def _shrunk(self, architecture: Architecture) -> TracedNetwork:
        """The network narrowed to an architecture, with its batch norms recalibrated."""
        smaller = self.narrow_to(architecture)(self.model)
        self._recalibrate(smaller, architecture)
        return self.space.network_of(smaller, architecture).eval()

    def _recalibrate(self, model: nn.Module, architecture: Architecture) -> None:
        """Give the batch norms of an architecture's module statistics of its own."""
        recalibrate_norms(model, (inputs for inputs, _ in self.recalibration_batches(architecture)))

    def narrow_to(self, architecture: Architecture) -> Callable[[nn.Module], nn.Module]:
        """What narrows the network, or a copy with other weights, to an architecture."""
        return lambda model: self.space.shrunk(model, self.groups, architecture, self.units)

    def recalibration_batches(self, architecture: Architecture) -> list[Batch]:
        """Training batches from which the batch norms of an architecture take their statistics."""
        count = self.run.config.search.recalibration_batches
        return self._batches("recalibration", count, architecture)

    def _batches(self, purpose: str, count: int, architecture: Architecture) -> list[Batch]:
        """Training batches as an architecture's module reads them, without augmentation."""
        run = self.run
        batches = run.batches(run.problem.dataset.train, run.config.search.batch_size, purpose)
        network = self.space.network_of(self.model, architecture)
        pairs = map(batches.batch, range(count))
        return [(network.arguments(inputs), targets) for inputs, targets in pairs]

    def _score(self, network: TracedNetwork) -> float:
        """The score on training samples."""
        run, dataset = self.run, self.run.problem.dataset
        rng = np.random.default_rng(run.seed("ranking"))
        count = min(run.config.search.ranking_images, len(dataset.train))
        split = dataset.train.take(np.sort(rng.permutation(len(dataset.train))[:count]))
        return run.problem.task.score(predictions(network, split, dataset, run.device))

    def _recover(self, number: int) -> None:
        """Train the network for a short time."""
        run = self.run
        config = run.config.train.model_copy(update={"epochs": self.config.recovery_epochs})
        torch.manual_seed(run.seed("network"))
        stage = f"{RECOVERY}-{number}"
        training = training_of(run, self.network(), config, stage)
        with run.stage(f"recovery {number}") as advance:
            training.run(run.folder, advance)
        assert isinstance(training.average, TracedNetwork)
        self.model = training.average.model.eval()
        interruption.stop_if_requested()

    def _remember(self, measured: Measured) -> None:
        self.measured[measured.architecture] = measured
