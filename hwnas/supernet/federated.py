"""Federated search: clients train the shared supernet on samples that stay with them.

In each round the server sends its weights and mixtures to all clients. Each judges the mixture on
its own validation samples, trains the weights for some steps on its own training samples, and sends
back its weights and the gradient of its loss by the mixing weights. The server takes the means over
the clients, weighted by their numbers of samples, and its strategy learns from that of the
gradients. Averaging weights is FedAvg (McMahan et al., AISTATS 2017, arXiv 1602.05629). FedNAS (He
et al., arXiv 2004.08546) averages architecture parameters that clients trained; gradients take
their place here, so that any strategy and the budget stay on the server.

The clients are simulated, one after the other in this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.data import Batches
from hwnas.strategies.base import Outcome
from hwnas.supernet.search import SupernetSearch
from hwnas.training.optimizer import build_optimizer


@dataclass(frozen=True)
class Client:
    """Someone with samples that the server does not see.

    Attributes:
        training: batches of its samples for the weights.
        validation: batches of its samples for the architecture.
        share: its share of all clients' samples.
    """

    training: Batches
    validation: Batches
    share: float


@dataclass(frozen=True)
class Update:
    """Everything that leaves a client after a round, beside its number of samples.

    Attributes:
        weights: the supernet's weights, and the statistics of its batch norms.
        loss: the mean loss of its training steps.
        outcome: what it found of the mixture, with the gradient by the mixing weights; None in
            rounds without a step of the architecture.
    """

    weights: dict[str, Tensor]
    loss: float
    outcome: Outcome | None


@dataclass
class FederatedSearch(SupernetSearch):
    """A search whose weights and gradients come from clients; see `SupernetSearch`.

    Its steps are those of each client. The clients keep no state between rounds: their optimisers
    begin anew.

    Attributes:
        clients: those who train; their shares sum to 1.
        local_steps: steps of each client in a round.
    """

    clients: Sequence[Client] = ()
    local_steps: int = 1

    def advance(self) -> dict[str, Any]:
        """Take a round.

        Returns:
            A record for the history.

        Raises:
            HwnasError: the loss is not finite.
        """
        steps = min(self.local_steps, self.config.steps - self.step)
        judged = None
        if self._judges():
            judged = self.strategy.ask()
            self._widen(max(1, self.first_partial // self.strategy.widening))
        trained = [self.strategy.ask_training() for _ in range(steps)]
        sent = {name: value.clone() for name, value in self.supernet.state_dict().items()}
        updates = []
        for client in self.clients:
            self.supernet.load_state_dict(sent)
            updates.append(self._updated_by(client, judged, trained))
        shares = [client.share for client in self.clients]
        self.supernet.load_state_dict(mean_weights([u.weights for u in updates], shares))
        loss = sum(u.loss * share for u, share in zip(updates, shares, strict=True))
        outcome = None
        if judged is not None:
            outcome = mean_outcome([u.outcome for u in updates if u.outcome is not None], shares)
            self._learn(judged, outcome)
        self._require_finite(loss, outcome)
        self.step += steps
        mixture = judged or next(one for one in trained if one is not None)
        return self._record(loss, mixture, outcome, self.step - steps)

    def _updated_by(
        self, client: Client, judged: Mixture | None, trained: Sequence[Mixture | None]
    ) -> Update:
        """What a client sends back, from the weights that the supernet has."""
        self.validation = client.validation
        self.optimizer = build_optimizer(self.supernet, self.config)
        self.supernet.train()
        outcome = None if judged is None else self._judged(judged, len(trained))
        losses = []
        for step, mixture in enumerate(trained, start=self.step):
            if mixture is not None:
                self._set_rate(step)
                losses.append(self._weights_step(mixture.detach(), client.training.batch(step)))
        if not losses:
            assert outcome is not None, "a round trains the architecture, the weights or both"
            losses = [outcome.loss]
        state = {name: value.clone() for name, value in self.supernet.state_dict().items()}
        return Update(state, sum(losses) / len(losses), outcome)

    def _judged(self, mixture: Mixture, batches: int) -> Outcome:
        """The outcome of a mixture on a client's next validation batches."""
        if self.strategy.judged_on:
            return self._evaluate_over(mixture, self.strategy.judged_on)
        outcomes = [
            self._evaluate(
                mixture,
                self.step + k,
                self.multiplier,
                with_gradient=self.strategy.uses_gradient,
                penalised=True,
            )
            for k in range(batches)
        ]
        return mean_outcome(outcomes, [1 / batches] * batches)


def mean_weights(states: Sequence[dict[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of states of a module; counters are those of the first."""
    found = {}
    for name, first in states[0].items():
        found[name] = first
        if first.is_floating_point():
            terms = [share * s[name].double() for s, share in zip(states, shares, strict=True)]
            found[name] = torch.stack(terms).sum(0).to(first.dtype)
    return found


def mean_outcome(outcomes: Sequence[Outcome], shares: Sequence[float]) -> Outcome:
    """The weighted mean of the outcomes of one mixture."""
    gradient = None
    if outcomes[0].gradient is not None:
        pairs = zip(outcomes, shares, strict=True)
        gradient = torch.stack([s * o.gradient for o, s in pairs if o.gradient is not None]).sum(0)
    objective = sum(o.objective * share for o, share in zip(outcomes, shares, strict=True))
    loss = sum(o.loss * share for o, share in zip(outcomes, shares, strict=True))
    return replace(outcomes[0], objective=objective, loss=loss, gradient=gradient)
