"""Reading: the part of a text that answers a question, and the next reply of a dialogue."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.data.formats import NEXT_REPLY, QUESTION_ANSWERING, VOID
from hwnas.inference.spans import best_spans
from hwnas.tasks.base import Meter, Task


class SpanMeter:
    """The share of answers that are found exactly, and the mean F1 score of their words.

    Rajpurkar et al., EMNLP 2016 (arXiv 1606.05250), section 6.1, by positions in the text in place
    of their words.
    """

    def __init__(self) -> None:
        self._exact: list[float] = []
        self._f1: list[float] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch of scores (N, 2, 1, L) and spans (N, 2)."""
        found = best_spans(outputs[:, :, 0].numpy())
        for (start, end), (first, last) in zip(found.tolist(), targets.tolist(), strict=True):
            common = max(0, min(end, last) - max(start, first) + 1)
            self._exact.append(float((start, end) == (first, last)))
            self._f1.append(2 * common / (end - start + 1 + last - first + 1))

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name."""
        return {"exact_match": float(np.mean(self._exact)), "word_f1": float(np.mean(self._f1))}


class QuestionAnswering(Task):
    """Tokens (N, L) of a question and a text to scores (N, 2, 1, L) of the answer's ends."""

    name = QUESTION_ANSWERING
    metric = "exact_match"
    head = "positions"
    input_name = "tokens"
    output_name = "scores"

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of the first and the last position of the answer."""
        return F.cross_entropy(outputs[:, :, 0].transpose(1, 2), targets)

    def constant_score(self, targets: np.ndarray) -> float:
        """Return the share of the most frequent span."""
        _, counts = np.unique(targets, axis=0, return_counts=True)
        return int(counts.max()) / len(targets)

    def meter(self) -> Meter:
        return SpanMeter()


class ReplyMeter:
    """The share of dialogues whose right reply has the highest score, and the mean reciprocal rank.

    The share is the recall at 1 of Lowe et al., SIGDIAL 2015 (arXiv 1506.08909). Candidates with
    equal scores count as if the right one came last.
    """

    def __init__(self) -> None:
        self._ranks: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch of scores (N, 1, 1, L) and labels (N, L)."""
        scores = outputs[:, 0, 0]
        right = scores.masked_fill(targets != 1, -torch.inf).amax(dim=1, keepdim=True)
        self._ranks.append(((scores >= right) & (targets != VOID)).sum(dim=1))

    def compute(self) -> dict[str, Any]:
        """Return the metrics by name."""
        ranks = torch.cat(self._ranks).double()
        right = int((ranks == 1).sum()) / len(ranks)
        return {"reply_accuracy": right, "mean_reciprocal_rank": float((1 / ranks).mean())}


class NextReply(Task):
    """Tokens (N, L) of a dialogue and its candidates to scores (N, 1, 1, L).

    The score of a candidate is that of the position behind it; those of other positions mean
    nothing.
    """

    name = NEXT_REPLY
    metric = "reply_accuracy"
    head = "positions"
    input_name = "tokens"
    output_name = "scores"

    @property
    def outputs(self) -> int:
        return 1

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of the right reply among its candidates."""
        scores = outputs[:, 0, 0].masked_fill(targets == VOID, -torch.inf)
        return F.cross_entropy(scores, (targets == 1).int().argmax(dim=1))

    def constant_score(self, targets: np.ndarray) -> float:
        """Return the share of dialogues in which the most frequent place among them is right."""
        places = [int((row[row != VOID] == 1).argmax()) for row in targets]
        return max(places.count(place) for place in set(places)) / len(places)

    def meter(self) -> Meter:
        return ReplyMeter()
