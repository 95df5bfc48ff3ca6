"""The stage that makes a trained network smaller, round by round, until it keeps the budget.

Each round estimates what channels and blocks are worth, lets the decoder find what loses least
within the round's budget, measures it, and trains what is left for a short time with the original
network as the teacher. The budgets of the rounds go down in equal ratios from the latency of the
original.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from safetensors.torch import save

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder, latency_range_ms
from hwnas.budget.gate import TOLERANCE
from hwnas.budget.limit import Limit
from hwnas.budget.selection import Measured
from hwnas.durable import write_atomic
from hwnas.errors import InputError
from hwnas.pipeline.candidates import (
    candidate_selection,
    measure_architecture,
    reserve,
    with_reserve,
    write_architecture,
)
from hwnas.pipeline.run import Run
from hwnas.pipeline.shrink_formats import find_formats, in_formats, write_formats
from hwnas.pipeline.shrink_network import Remainder
from hwnas.pipeline.train import training_of
from hwnas.runs import interruption
from hwnas.runs.checkpoints import (
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from hwnas.runs.progress import Advance
from hwnas.runs.run_folder import RunFolder
from hwnas.shrinking.space import ShrinkSpace
from hwnas.spaces.traced.space import TracedNetwork
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
    while work.done < work.left.config.rounds:
        work.next_round()
    chosen = work.measured[work.left.architecture]
    write_atomic(run.folder.inherited, save(final_weights(work.left.network())))
    write_architecture(run, in_formats(run.folder, chosen))
    remove_checkpoints(run.folder.checkpoints, STAGE)
    return work.left.architecture


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
        left: what is left of the network.
        done: rounds that are done.
        ratio: latency that the network is expected to have in the formats of its operators, as a
            share of its latency in float32, in which all is predicted and measured.
        measured: networks that were measured, the original among them.
    """

    run: Run
    left: Remainder
    done: int = 0
    ratio: float = 1.0
    measured: dict[Architecture, Measured] = field(default_factory=dict)

    @classmethod
    def begun(cls, run: Run) -> Rounds:
        """The rounds of a run, from where an earlier call stopped."""
        space = run.problem.space
        assert isinstance(space, ShrinkSpace)
        model = copy.deepcopy(space.model).to(run.device)
        work = cls(run, Remainder(run, model, space.whole))
        work._know_original()
        if work.left.config.variant != "fp32":
            work._know_formats()
        kept = load_checkpoint(run.folder.checkpoints, STAGE)
        if kept is not None:
            work.done, state = kept
            architecture = Architecture.of(space.name, state["choices"])
            model = space.module(architecture).to(run.device)
            model.load_state_dict(state["weights"])
            work.left = Remainder(run, model, architecture)
        for record in run.folder.read_history():
            if record["event"] == STAGE and record["step"] <= work.done:
                work._remember(Measured.from_json(record, space.name))
        return work

    def require_reachable(self, run: Run) -> None:
        """Write the budget of a run to its history.

        Raises:
            InputError: when it is below what remains with everything removable gone, by the
                table's predictions as the measured original corrects them.
        """
        limits = self._limits(run, self.ratio)
        limits[0] = limits[0].with_cost(self._corrected())
        fastest_ms, slowest_ms = latency_range_ms(limits[0].cost)
        if fastest_ms > limits[0].budget_ms * (1 + TOLERANCE):
            raise InputError(
                "below the latency that remains when everything removable is gone",
                where="budget_ms",
                expected=f"at least {fastest_ms * self.ratio:.4g} ms",
                actual=f"{run.target.budget_ms():.4g} ms",
                mend="raise the budget",
            )
        Decoder(limits).best(np.zeros(self.left.space.mask.shape))
        if not any(record["event"] == "budget" for record in run.folder.read_history()):
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
        is_last = number == self.left.config.rounds
        chosen = self._chosen(number)
        self.left = self.left.narrowed(chosen.architecture)
        self._remember(chosen)
        if not is_last and self.left.config.recovery_epochs:
            self._recover(number)
        self.done = number
        record = chosen.to_json() | {"event": STAGE, "step": number}
        record |= {"budget_ms": self._budget_ms(number), "recovered": self.left.test_score()}
        self.run.folder.append_history(record)
        state = {
            "weights": self.left.model.state_dict(),
            "choices": dict(chosen.architecture.options),
        }
        save_checkpoint(self.run.folder.checkpoints, STAGE, number, state)
        remove_checkpoints(self.run.folder.checkpoints, f"{RECOVERY}-{number}")

    def _know_original(self) -> None:
        """Measure the network as it was given and score it, unless the history knows both."""
        run, whole = self.run, self.left.space.whole
        known = [r for r in run.folder.read_history() if r["event"] == ORIGINAL]
        if not known:
            with run.stage(ORIGINAL) as advance:
                score = self._required_score()
                advance(0, 1, "measuring")
                costs = measure_architecture(run, whole, None)
                advance(1, 1, f"{costs.latency.value_ms:.3f} ms, score {score:.4f}")
            measured = Measured(whole, run.target.cost.latency_ms(whole), score, costs)
            params, macs = self.left.space.params_and_macs(whole)
            left = [{"layer": one.name, "reason": one.reason} for one in self.left.space.left]
            facts = {"event": ORIGINAL, "params": params, "macs": macs, "left": left}
            known = [measured.to_json() | facts]
            run.folder.append_history(known[0])
        self._remember(Measured.from_json(known[0], self.left.space.name))

    def _know_formats(self) -> None:
        """Measure how much faster the original is in other formats, unless the history knows."""
        known = [r for r in self.run.folder.read_history() if r["event"] == FORMATS]
        if not known:
            found = find_formats(self.run, self.left.network().eval())
            known = [{"event": FORMATS, "ratio": 1.0 if found is None else found.ratio}]
            self.run.folder.append_history(known[0])
        self.ratio = float(known[0]["ratio"])

    def _required_score(self) -> float:
        """The score of the original on the test samples.

        Raises:
            InputError: when it is not above that of an answer that ignores the inputs.
        """
        task = self.run.problem.task
        score = self.left.test_score()
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
        whole_ms = self.measured[self.left.space.whole].latency.value_ms
        budget_ms = self._limits(self.run, self.ratio)[0].budget_ms
        if number == self.left.config.rounds or budget_ms >= whole_ms:
            return budget_ms
        share: float = (budget_ms / whole_ms) ** (number / self.left.config.rounds)
        return whole_ms * share

    def _chosen(self, number: int) -> Measured:
        """What a round's budget leaves of the network."""
        self.left.estimate(number)
        if number == self.left.config.rounds:
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
            formats = find_formats(run, self.left.shrunk(chosen.architecture), limit)
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
            self.left.worth,
            limits,
            lambda found: [self.left.score(self.left.shrunk(a)) for a in found],
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
                (found,) = self.left.worth.best(Decoder(limits))
            except InputError:
                found = self.left.architecture
            chosen = self.measured.get(found)
            if chosen is None:
                predicted_ms, score = (
                    cost.latency_ms(found),
                    self.left.score(self.left.shrunk(found)),
                )
                costs = measure_architecture(self.run, found, None)
                chosen = Measured(found, predicted_ms, score, costs)
            advance(1, 1, f"{chosen.latency.value_ms:.3f} ms, budget {budget_ms:.3f} ms")
        return chosen

    def _recover(self, number: int) -> None:
        """Train the network for a short time."""
        run = self.run
        config = run.config.train.model_copy(update={"epochs": self.left.config.recovery_epochs})
        torch.manual_seed(run.seed("network"))
        stage = f"{RECOVERY}-{number}"
        training = training_of(run, self.left.network(), config, stage)
        with run.stage(f"recovery {number}") as advance:
            training.run(run.folder, advance)
        assert isinstance(training.average, TracedNetwork)
        self.left.model = training.average.model.eval()
        interruption.stop_if_requested()

    def _remember(self, measured: Measured) -> None:
        self.measured[measured.architecture] = measured
