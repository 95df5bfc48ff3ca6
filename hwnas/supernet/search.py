"""The supernet's search loop: alternating steps of architecture and weights under a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.budget.limit import Limit
from hwnas.budget.objectives import updated_multiplier
from hwnas.config import SearchConfig
from hwnas.data import Batches
from hwnas.errors import HwnasError
from hwnas.runs.loop import is_sparse_record, run_steps, time_is_over
from hwnas.runs.progress import Advance
from hwnas.runs.ranks import ALONE, Ranks
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.networks import Supernet
from hwnas.strategies.base import Outcome, SearchStrategy, probability_rows
from hwnas.strategies.gradient import GradientStrategy
from hwnas.supernet.bilevel import evaluate_mixture_second_order
from hwnas.supernet.evaluate import Batch, Penalty, evaluate_mixture, frozen
from hwnas.supernet.graphs import CudaRecorder, SearchGraphs
from hwnas.supernet.guard import Guard
from hwnas.supernet.penalties import weighted_penalties
from hwnas.supernet.sandwich import Sandwich
from hwnas.supernet.widening import partial_channels, widen
from hwnas.tasks import Loss
from hwnas.training.optimizer import build_optimizer, load_optimizer
from hwnas.training.schedule import cosine

STAGE = "search"
LOG_EVERY = 10
"""Steps between entries in the run's history."""
GUARD_EVERY = 10
"""Steps between checks for a collapse."""


@dataclass
class SupernetSearch:
    """The state of a search, whose steps depend on nothing but the seed and the step.

    Attributes:
        supernet: the weight-sharing network, at the sizes of the search.
        strategy: proposes mixtures and learns from their outcomes.
        limits: the latency budgets, with cost models at the deployed sizes; the first is that of
            the device whose latency is recorded.
        config: settings.
        training, validation: batches for the weights and for the architecture.
        multiplier: Lagrange multiplier of the latency constraint; 0 during warm-up.
        step: number of steps done.
        guard: detects a collapse of the search, after which only the weights are trained.
        ranks: the processes that search together, each on its own part of every batch.
        loss_of: maps outputs and targets to the loss.
    """

    supernet: Supernet
    strategy: SearchStrategy
    limits: Sequence[Limit]
    config: SearchConfig
    training: Batches
    validation: Batches
    multiplier: float = 0.0
    step: int = 0
    guard: Guard | None = None
    ranks: Ranks = ALONE
    loss_of: Loss = F.cross_entropy

    def __post_init__(self) -> None:
        self.optimizer = build_optimizer(self.supernet, self.config)
        self.first_partial = partial_channels(self.supernet)
        self.warmup_steps = int(self.config.warmup * self.config.steps)
        strategy = self.strategy
        self.sandwich = Sandwich(
            self.supernet, strategy.space, self.config, strategy.seed, self.loss_of
        )
        self.graphs = self._new_graphs()

    def _new_graphs(self) -> SearchGraphs | None:
        """Nothing recorded yet; None where steps are not to be recorded."""
        if not self.config.cuda_graph:
            return None
        return SearchGraphs(self._judge, self._train, CudaRecorder())

    def run(self, folder: RunFolder, progress: Advance) -> None:
        """Search to the end, starting from the newest checkpoint if there is one.

        Args:
            folder: folder of the run, for checkpoints and the history.
            progress: called after each step.

        Raises:
            Interrupted: a signal was received; a checkpoint has been written.
            HwnasError: the loss is not finite.
        """
        run_steps(
            self,
            folder,
            stage=STAGE,
            steps=self.config.steps,
            log_every=LOG_EVERY,
            checkpoint_every=self.config.checkpoint_every,
            progress=progress,
            describe=self.limits[0].describe_step,
            ranks=self.ranks,
            ended=self._ended if self.config.minutes is not None else None,
        )

    def _ended(self, spent_s: float) -> str | None:
        return time_is_over(self.config.minutes, spent_s, "search.minutes")

    def advance(self) -> dict[str, Any]:
        """Take a step of the architecture (after warm-up) and a step of the weights.

        Returns:
            A record for the history.

        Raises:
            HwnasError: the loss is not finite.
        """
        self._set_rate(self.step)
        self.supernet.train()
        self.sandwich.begin(self.step, self.optimizer)
        batch = self._own_part(self.training.batch(self.step))
        outcome = None
        if self._judges():
            mixture = self.strategy.ask()
            outcome = self._architecture_step(mixture, batch)
            self._widen(max(1, self.first_partial // self.strategy.widening))
        trained = self.strategy.ask_training()
        if trained is not None:
            mixture = trained
            loss = self._weights_step(mixture.detach(), batch)
        else:
            assert outcome is not None, "a step trains the architecture, the weights or both"
            loss = outcome.loss
        self._require_finite(loss, outcome)
        self.step += 1
        if self.step % LOG_EVERY == 0:
            same = [torch.tensor(self.step), mixture.weights.detach()]
            self.ranks.require_equal([*same, *self.supernet.parameters()])
        record = self._record(loss, mixture, outcome, self.step - 1)
        can_check = outcome is not None and not self.strategy.judged_on
        if self.guard is not None and can_check and self.step % GUARD_EVERY == 0:
            record |= self._check_collapse(self.guard)
        return record

    def _set_rate(self, step: int) -> None:
        """Set the learning rate of the weights for a step."""
        fraction = step / self.config.steps
        rate = cosine(self.config.learning_rate, self.config.learning_rate_min, fraction)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _judges(self) -> bool:
        """Whether the present step is one of the architecture too."""
        collapsed = self.guard is not None and self.guard.collapsed
        return self.step >= self.warmup_steps and not collapsed

    def _require_finite(self, loss: float, outcome: Outcome | None) -> None:
        if not math.isfinite(loss) or (outcome and not math.isfinite(outcome.objective)):
            raise HwnasError(
                "the loss is no longer finite",
                where=f"search step {self.step}",
                mend="lower search.learning_rate",
            )

    def _widen(self, partial: int) -> None:
        """Widen the candidate operators to 1 in `partial` channels if they are narrower."""
        if partial < partial_channels(self.supernet):
            widen(self.supernet, self.optimizer, partial)
            self.graphs = self._new_graphs()

    def _check_collapse(self, guard: Guard) -> dict[str, Any]:
        """Return the guard's record: the eigenvalue that it watches, and a collapse."""

        def gradient(weights: Tensor) -> Tensor:
            outcome = self._evaluate(Mixture(weights), self.step, 0.0, with_gradient=True)
            assert outcome.gradient is not None
            return outcome.gradient

        assert isinstance(self.strategy, GradientStrategy)
        return guard.check(self.strategy, self.step, gradient)

    def _evaluate(
        self,
        mixture: Mixture,
        batch: int,
        multiplier: float,
        *,
        with_gradient: bool,
        penalised: bool = False,
    ) -> Outcome:
        """Evaluate a mixture on one validation batch, averaged over all processes."""
        samples = self._own_part(self.validation.batch(batch))
        outcome = evaluate_mixture(
            self.supernet,
            self.limits,
            mixture,
            samples,
            multiplier=multiplier,
            with_gradient=with_gradient,
            loss_of=self.loss_of,
            penalty=self._penalty(samples, batch) if with_gradient and penalised else None,
            loss_at=self.graphs.loss if self.graphs is not None and with_gradient else None,
        )
        return self._average(outcome)

    def _judge(self, batch: Batch, mixture: Mixture) -> tuple[Tensor, Tensor]:
        """The loss of a mixture on a batch, and its gradient by the mixing weights."""
        inputs, targets = batch
        weights = mixture.weights.detach().requires_grad_()
        with torch.enable_grad(), frozen(self.supernet):
            outputs = self.supernet(inputs, Mixture(weights, mixture.active))
            loss = self.loss_of(outputs, targets)
            (gradient,) = torch.autograd.grad(loss, weights)
        return loss.detach(), gradient

    def _penalty(self, samples: Batch, step: int) -> Penalty | None:
        """The penalties of the configuration on a batch; None without any."""
        if not self.config.penalties:
            return None
        return weighted_penalties(
            self.supernet,
            {str(name): weight for name, weight in self.config.penalties.items()},
            samples,
            self.loss_of,
            self.strategy.seed,
            step,
        )

    def _average(self, outcome: Outcome) -> Outcome:
        """Average an outcome over all processes."""
        if self.ranks.size == 1:
            return outcome
        figures = torch.tensor([outcome.objective, outcome.loss], dtype=torch.float64)
        self.ranks.average([figures])
        if outcome.gradient is not None:
            self.ranks.average([outcome.gradient])
        objective, loss = figures.tolist()
        return replace(outcome, objective=objective, loss=loss)

    def _evaluate_over(self, mixture: Mixture, batches: int) -> Outcome:
        """Evaluate a mixture on the first validation batches, without a gradient."""
        outcomes = [
            self._evaluate(mixture, index, self.multiplier, with_gradient=False)
            for index in range(batches)
        ]
        objective = sum(outcome.objective for outcome in outcomes) / batches
        loss = sum(outcome.loss for outcome in outcomes) / batches
        return Outcome(objective, loss, outcomes[0].ratio)

    def _architecture_step(self, mixture: Mixture, batch: Batch) -> Outcome:
        if self.strategy.judged_on:
            outcome = self._evaluate_over(mixture, self.strategy.judged_on)
        elif self.config.order == 2 and self.strategy.uses_gradient:
            outcome = evaluate_mixture_second_order(
                self.supernet,
                self.limits,
                mixture,
                batch,
                self._own_part(self.validation.batch(self.step)),
                self.optimizer,
                multiplier=self.multiplier,
                ranks=self.ranks,
                loss_of=self.loss_of,
            )
            outcome = self._average(outcome)
        else:
            uses_gradient = self.strategy.uses_gradient
            outcome = self._evaluate(
                mixture,
                self.step,
                self.multiplier,
                with_gradient=uses_gradient,
                penalised=True,
            )
        self._learn(mixture, outcome)
        return outcome

    def _learn(self, mixture: Mixture, outcome: Outcome) -> None:
        """Tell the strategy an outcome, and move the multiplier of the budget."""
        self.strategy.tell(mixture, outcome, self.step / self.config.steps)
        self.multiplier = updated_multiplier(
            self.multiplier, outcome.ratio, self.config.latency_rate
        )

    def _weights_step(self, mixture: Mixture, batch: Batch) -> float:
        train = self._train if self.graphs is None else self.graphs.train
        return train(batch, mixture.to(batch[1].device)).item()

    def _train(self, batch: Batch, mixture: Mixture) -> Tensor:
        """Train the weights on a batch, and return the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.sandwich.backward(mixture, batch, self.step)
        gradients = [p.grad for p in self.supernet.parameters() if p.grad is not None]
        self.ranks.average([loss, *gradients])
        torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        return loss

    def _own_part(self, batch: Batch) -> Batch:
        inputs, targets = batch
        part = self.ranks.part
        own = tuple(map(part, inputs)) if isinstance(inputs, tuple) else part(inputs)
        return own, part(targets)

    def _record(
        self, loss: float, mixture: Mixture, outcome: Outcome | None, before: int
    ) -> dict[str, Any]:
        """What the history says of the steps since another one."""
        cost = self.limits[0].cost
        with torch.no_grad():
            latency_ms = float(cost(mixture))
        record: dict[str, Any] = {
            "loss": loss,
            "validation_loss": None if outcome is None else outcome.loss,
            "latency_ms": latency_ms,
            "multiplier": self.multiplier,
            "entropy": self.strategy.entropy(),
            "skips": expected_skips(cost.space, mixture),
            "partial_channels": partial_channels(self.supernet),
        }
        if is_sparse_record(self.step, self.config.steps, LOG_EVERY, before):
            record["probabilities"] = probability_rows(self.strategy)
        return record

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is needed to resume the search."""
        return {
            "step": self.step,
            "multiplier": self.multiplier,
            "partial_channels": partial_channels(self.supernet),
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "strategy": self.strategy.state_dict(),
            "guard": None if self.guard is None else self.guard.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.step = state["step"]
        self.multiplier = state["multiplier"]
        self._widen(state["partial_channels"])
        self.supernet.load_state_dict(state["supernet"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.graphs = self._new_graphs()
        self.strategy.load_state_dict(state["strategy"])
        if self.guard is not None and state["guard"] is not None:
            self.guard.load_state_dict(state["guard"])


def expected_skips(space: SearchSpace, mixture: Mixture) -> float:
    """Return the expected number of skip connections that run in a mixture."""
    with torch.no_grad():
        runs = space.run_probability(mixture.weights)
    return sum(
        float(runs[row, parts.index("skip_connect")])
        for row, parts in enumerate(space.parts)
        if "skip_connect" in parts
    )
