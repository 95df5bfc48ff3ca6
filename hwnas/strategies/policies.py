"""Policy gradient strategies, which sample architectures from a policy: REINFORCE, PPO, ENAS."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hwnas.architecture import Architecture
from hwnas.spaces.base import SearchSpace
from hwnas.strategies.base import Decoder, Outcome
from hwnas.strategies.sampled import SampledSettings, SampledStrategy


class PolicySettings(SampledSettings):
    """Settings of the policy gradient; the reward is the negative objective."""

    learning_rate: float = Field(0.01, gt=0, description="learning rate of Adam for the policy")
    baseline: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="decay of the moving average of the reward, which is the baseline",
    )
    entropy: float = Field(0.0, ge=0, description="weight of the policy's entropy in the objective")
    update: Literal["reinforce", "ppo"] = Field(
        "reinforce", description="rule by which the policy is updated"
    )
    batch: int = Field(1, ge=1, description="architectures in one update")
    clip: float = Field(
        0.2,
        gt=0,
        description="for PPO: how far the ratio of probabilities may leave 1 before it is clipped",
    )
    epochs: int = Field(4, ge=1, description="for PPO: gradient steps in one update")


class PolicyStrategy(SampledStrategy):
    """A policy that decides the choices one after the other, each given the previous ones.

    Adam follows the gradient `(reward - baseline) * grad log p`, or that of PPO's clipped objective
    (Schulman et al., arXiv 1707.06347, eq. 7).
    """

    settings_model = PolicySettings

    def __init__(
        self, space: SearchSpace, seed: int, settings: PolicySettings, decoder: Decoder
    ) -> None:
        super().__init__(space, seed, settings, decoder)
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = self.new_policy()
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=settings.learning_rate)
        self.baseline: float | None = None
        self.pending: list[tuple[Architecture, float]] = []

    @abstractmethod
    def new_policy(self) -> nn.Module:
        """The parameters of the policy."""

    @abstractmethod
    def logits(self, decided: Sequence[int]) -> Tensor:
        """The logits of each choice given the previous ones, (decided choices + 1, max_options)."""

    def _log_probabilities(self, decided: Sequence[int]) -> Tensor:
        """The log-softmax of the logits over the open options, -inf elsewhere."""
        logits = self.logits(decided)
        closed = torch.ones(logits.shape, dtype=torch.bool)
        for row in range(len(logits)):
            closed[row, list(self.space.open_options(decided[:row]))] = False
        return logits.masked_fill(closed, -math.inf).log_softmax(dim=1)

    def propose(self, rng: np.random.Generator) -> Architecture:
        decided: list[int] = []
        with torch.no_grad():
            for _ in self.space.choices:
                p = self._log_probabilities(decided)[-1].exp().double().numpy()
                decided.append(int(rng.choice(len(p), p=p / p.sum())))
        return self.space.architecture(decided)

    def learn(self, architecture: Architecture, outcome: Outcome) -> None:
        self.pending.append((architecture, -outcome.objective))
        if len(self.pending) == self.settings.batch:
            self._update()
            self.pending.clear()

    def learn_suggestion(self, architecture: Architecture, outcome: Outcome) -> None:
        """Record only: the gradient holds for samples of the policy, and no others.

        Large networks would also raise the baseline so far that the policy moves away from
        everything that it samples itself. On a supernet, whose outcomes are not recorded, there
        are no further suggestions.
        """
        if not outcome.lasting:
            self.started = self.starts

    def _update(self) -> None:
        rewards = torch.tensor([reward for _, reward in self.pending])
        mean = float(rewards.mean())
        baseline, decay = mean if self.baseline is None else self.baseline, self.settings.baseline
        advantage = rewards - baseline
        self.baseline = decay * baseline + (1 - decay) * mean
        before = None
        for _ in range(self.settings.epochs if self.settings.update == "ppo" else 1):
            log_p, entropy = self._log_p_and_entropy()
            if self.settings.update == "ppo":
                before = log_p.detach() if before is None else before
                ratio = (log_p - before).exp()
                clipped = ratio.clamp(1 - self.settings.clip, 1 + self.settings.clip)
                gain = torch.minimum(ratio * advantage, clipped * advantage)
            else:
                gain = log_p * advantage
            self.optimizer.zero_grad()
            torch.autograd.backward((-gain - self.settings.entropy * entropy).mean())
            self.optimizer.step()

    def _log_p_and_entropy(self) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of each pending architecture's decisions."""
        log_ps, entropies = [], []
        for architecture, _ in self.pending:
            chosen = self.space.chosen(architecture)
            log_p = self._log_probabilities(chosen[:-1])
            log_ps.append(log_p[torch.arange(len(chosen)), chosen].sum())
            entropies.append(-(log_p.exp() * log_p.clamp_min(-1e9)).sum())
        return torch.stack(log_ps), torch.stack(entropies)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "baseline": self.baseline,
            "pending": self.space.to_rows(self.pending),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.baseline = state["baseline"]
        self.pending = self.space.from_rows(state["pending"])


class ReinforceStrategy(PolicyStrategy):
    """An independent softmax for each choice, apart from options that are not open."""

    name = "reinforce"
    paper = (
        "Williams, Simple Statistical Gradient-Following Algorithms for Connectionist "
        "Reinforcement Learning, Machine Learning 8, 1992"
    )

    def new_policy(self) -> nn.Module:
        return nn.ParameterDict({"logits": torch.zeros(self.space.mask.shape)})

    def logits(self, decided: Sequence[int]) -> Tensor:
        return self.policy.get_parameter("logits")[: len(decided) + 1]


class EnasSettings(PolicySettings):
    """The published settings of the controller."""

    learning_rate: float = Field(0.0035, gt=0, description="learning rate of Adam for the policy")
    baseline: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of the moving average of the reward, which is the baseline",
    )
    entropy: float = Field(
        1e-4, ge=0, description="weight of the policy's entropy in the objective"
    )
    hidden: int = Field(64, ge=1, description="width of the LSTM")
    tanh_constant: float = Field(1.10, gt=0, description="bound of the logits")
    tanh_reduce: float = Field(2.5, gt=0, description="further division of that bound")


class Controller(nn.Module):
    """An LSTM that reads the previous decisions and computes the logits of the next choice."""

    def __init__(self, options: int, choices: int, hidden: int) -> None:
        super().__init__()
        # Row 0 marks the start; every option of every choice has a row of its own.
        self.embedding = nn.Embedding(1 + choices * options, hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        self.output = nn.Linear(hidden, options, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(length,) decisions to (length, options) logits."""
        states, _ = self.lstm(self.embedding(tokens).unsqueeze(0))
        logits: Tensor = self.output(states[0])
        return logits


class EnasStrategy(PolicyStrategy):
    """An LSTM controller, on whose samples the supernet is trained."""

    name = "enas"
    paper = (
        "Pham et al., Efficient Neural Architecture Search via Parameter Sharing, ICML 2018, "
        "arXiv 1802.03268"
    )
    settings_model = EnasSettings
    settings: EnasSettings

    def new_policy(self) -> nn.Module:
        return Controller(self.space.max_options, len(self.space.choices), self.settings.hidden)

    def logits(self, decided: Sequence[int]) -> Tensor:
        tokens = [1 + i * self.space.max_options + option for i, option in enumerate(decided)]
        bound = self.settings.tanh_constant / self.settings.tanh_reduce
        logits: Tensor = self.policy(torch.tensor([0, *tokens]))
        return bound * logits.tanh()
