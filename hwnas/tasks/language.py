"""Language modelling: prediction of the next token at every position."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from hwnas.tasks.base import Meter, Task
from hwnas.tasks.counts import METRIC_OPTIONS


class LanguageMeter:
    """Perplexity, its inverse, and the fraction of tokens that are predicted correctly."""

    def __init__(self, tokens: int) -> None:
        from torchmetrics.classification import MulticlassAccuracy
        from torchmetrics.text import Perplexity

        self._perplexity = Perplexity(**METRIC_OPTIONS)
        self._accuracy = MulticlassAccuracy(
            tokens, average="micro", validate_args=False, **METRIC_OPTIONS
        )

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch of logits (N, K, 1, L) and tokens (N, 1, L)."""
        self._perplexity.update(outputs.squeeze(2).transpose(1, 2), targets.squeeze(1))
        self._accuracy.update(outputs, targets)

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name."""
        perplexity = float(self._perplexity.compute())
        return {
            "inverse_perplexity": 1 / perplexity,
            # A single token with probability 0 makes it infinite, which JSON cannot represent.
            "perplexity": perplexity if math.isfinite(perplexity) else None,
            "token_accuracy": float(self._accuracy.compute()),
        }


class LanguageModelling(Task):
    """Tokens (N, L) to logits (N, K, 1, L) of the token that follows each of them.

    Networks are compared by the inverse perplexity, which is the geometric mean of the predicted
    probabilities of the correct tokens. Unlike the token accuracy, it is a function of the loss.
    """

    name = "language-modelling"
    metric = "inverse_perplexity"
    head = "dense"
    tells_classes = True
    input_name = "tokens"

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def constant_score(self, targets: np.ndarray) -> float:
        """Return the inverse perplexity of the frequencies of the tokens in the training data.

        The counts are one higher than found, so that no token has the probability 0.
        """
        counts = 1 + np.bincount(self.dataset.train.targets.ravel(), minlength=self.outputs)
        return float(np.exp(np.log(counts / counts.sum())[targets].mean()))

    def meter(self) -> Meter:
        return LanguageMeter(self.outputs)
