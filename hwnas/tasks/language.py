"""Language modelling: the next token, at every step."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hwnas.tasks.base import Meter, Task
from hwnas.tasks.counts import METRIC_OPTIONS


class LanguageMeter:
    """Perplexity, its inverse, and the share of tokens that were foreseen."""

    def __init__(self, tokens: int) -> None:
        from torchmetrics.classification import MulticlassAccuracy
        from torchmetrics.text import Perplexity

        self._perplexity = Perplexity(**METRIC_OPTIONS)
        self._accuracy = MulticlassAccuracy(
            tokens, average="micro", validate_args=False, **METRIC_OPTIONS
        )

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take logits (N, K, 1, L) and tokens (N, 1, L)."""
        self._perplexity.update(outputs.squeeze(2).transpose(1, 2), targets.squeeze(1))
        self._accuracy.update(outputs, targets)

    def compute(self) -> dict[str, Any]:
        """The metrics by name."""
        perplexity = float(self._perplexity.compute())
        return {
            "inverse_perplexity": 1 / perplexity,
            # JSON has no infinity, which a single token held impossible leads to.
            "perplexity": perplexity if math.isfinite(perplexity) else None,
            "token_accuracy": float(self._accuracy.compute()),
        }


class LanguageModelling(Task):
    """Tokens (N, L) to logits (N, tokens, 1, L) of the tokens that follow them.

    Networks are compared by the inverse of the perplexity, the geometric mean of the
    probabilities that the right tokens are given: unlike the share of foreseen tokens it is what
    the loss is about.
    """

    name = "language-modelling"
    metric = "inverse_perplexity"
    head = "dense"
    tells_classes = True
    input_name = "tokens"

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def meter(self) -> Meter:
        return LanguageMeter(self.outputs)
