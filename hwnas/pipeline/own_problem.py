"""A problem that was given in Python: the user's model, data, loss, metric or evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hwnas.architecture import Architecture
from hwnas.budget.decode import smallest_and_largest
from hwnas.data import Dataset, Normalisation, Split
from hwnas.data.arrays import KIND
from hwnas.data.inputs import InputTensors, by_position, joined
from hwnas.errors import InputError, first_line
from hwnas.evaluators.function import Evaluate, evaluated
from hwnas.pipeline.problem import Problem
from hwnas.spaces.traced.space import TracedSpace
from hwnas.tasks import Task

TRIED = 8
"""Samples at most of the batch on which loss and metric are tried."""


@dataclass
class OwnProblem(Problem):
    """What `hwnas.search(model, ...)` was given.

    Attributes:
        own_dataset: the data; without any, the example inputs stand for them.
        own_task: loss and metric.
        own_space: the search space of the model.
        function: judges modules, if it was given.
        first_score: the score of the architecture with which `evaluate` was tried.
    """

    own_dataset: Dataset
    own_task: Task
    own_space: TracedSpace
    function: Evaluate | None = None
    first_score: dict[Architecture, float] = field(default_factory=dict)

    @property
    def has_data(self) -> bool:
        return not isinstance(self.own_dataset, ExampleData)

    @property
    def evaluate(self) -> Evaluate | None:
        return self.function

    @property
    def is_detached(self) -> bool:
        return False

    @cached_property
    def dataset(self) -> Dataset:
        """See `Problem.dataset`."""
        return self.own_dataset

    @cached_property
    def task(self) -> Task:
        """See `Problem.task`."""
        return self.own_task

    @cached_property
    def space(self) -> TracedSpace:
        """See `Problem.space`."""
        return self.own_space

    @cached_property
    def proxy_space(self) -> TracedSpace:
        """See `Problem.proxy_space`."""
        if self.config.search.proxy:
            raise InputError(
                "a model of one's own has no other sizes",
                where="settings: search.proxy",
                mend="leave it out",
            )
        return self.own_space

    def try_functions(self) -> None:
        """Try the user's functions before anything long begins.

        Raises:
            InputError: for outputs that do not suit the data, a loss or metric that cannot be
                computed, and an evaluation that fails.
        """
        if self.has_data:
            self._try_loss()
        if self.evaluate is not None:
            smallest, _ = smallest_and_largest(self.space)
            self.first_score = {smallest: evaluated(self.evaluate, self.space.module(smallest))}

    def _try_loss(self) -> None:
        """Compute the loss and the metric of an untrained network on a batch."""
        train = self.dataset.train
        inputs = self.dataset.normalise(train.inputs[:TRIED])
        targets = torch.from_numpy(train.targets[:TRIED])
        network = self.space.network(smallest_and_largest(self.space)[1]).train()
        outputs = network(inputs)
        shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
        try:
            loss = self.task.loss(outputs, targets)
            # Refuses what is no scalar, and what no gradient reaches.
            torch.autograd.backward(loss)
        except Exception as error:
            raise InputError(
                f"it cannot be computed of {shapes}", where="loss", actual=first_line(error)
            ) from error
        if not torch.isfinite(loss):
            raise InputError(
                "it is not finite at the first batch", where="loss", actual=loss.item()
            )
        self.task.score([(outputs.detach(), targets)])


def sample_shape(dataset: Dataset) -> tuple[int, ...]:
    """The shape of a sample as a user's model reads it: (C, H, W), (C, L), (F,) or tokens (L,)."""
    shape = dataset.input_shape
    kind = dataset.reading.get(KIND)
    if kind == "signal":
        return shape[0], shape[-1]
    return shape[:1] if kind == "table" else shape


def examples_of(dataset: Dataset) -> InputTensors:
    """Two samples as a user's model reads them; several inputs are a tuple."""
    inputs = dataset.normalise(dataset.train.inputs[:2])
    if isinstance(inputs, tuple):
        for one, x in zip(dataset.inputs, inputs, strict=True):
            if one.dtype == "int64":
                splits = dataset.train, dataset.test
                x[0, 0] = max(int(split.inputs[one.name].max()) for split in splits)
        return inputs
    if dataset.vocabulary:
        # The largest token says how many there are.
        inputs[0, 0] = len(dataset.vocabulary) - 1
    return inputs.reshape(len(inputs), *sample_shape(dataset))


@dataclass(frozen=True)
class ExampleData(Dataset):
    """Example inputs in the place of data, which are not normalised."""

    @cached_property
    def normalisations(self) -> dict[str, Normalisation | None]:
        """No normalisation of any of several inputs."""
        return {one.name: None for one in self.inputs}

    @cached_property
    def normalisation(self) -> Normalisation:
        """Normalisation that changes nothing."""
        channels = self.input_shape[0]
        return Normalisation("float32", (0.0,) * channels, (1.0,) * channels)


def example_data(example: InputTensors) -> ExampleData:
    """Example inputs as a dataset, each often enough for both halves of a search.

    Args:
        example: inputs (N, ...) of the user's model; several inputs are a tuple.

    Raises:
        InputError: for inputs that are neither floats nor whole numbers (N, L).
    """
    if isinstance(example, tuple):
        arrays = [x.detach().cpu().numpy() for x in example]
        typed = [a.astype(np.float32 if a.dtype.kind == "f" else np.int64) for a in arrays]
        split = _repeated(joined(by_position(typed)))
        return ExampleData("own", ("output",), split, split, "regression")
    vocabulary: tuple[str, ...] = ()
    array = example.detach().cpu().numpy()
    if not example.is_floating_point():
        array = array.astype(np.int64)
        vocabulary = tuple(str(token) for token in range(int(array.max()) + 1))
    else:
        array = array.astype(np.float32)
        kinds = {2: "table", 3: "signal"}
        array = array.reshape(len(array), *_as_map(array.shape[1:]))
    split = _repeated(array)
    reading: dict[str, Any] = {}
    if example.is_floating_point() and example.dim() in kinds:
        reading[KIND] = kinds[example.dim()]
    return ExampleData("own", ("output",), split, split, "regression", vocabulary, reading)


def _repeated(inputs: np.ndarray) -> Split:
    """Example inputs, each four times, with a target that stands for none."""
    repeated = np.concatenate([inputs] * 4)
    return Split(repeated, np.zeros((len(repeated), 1), dtype=np.float32))


def _as_map(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(F,), (C, L) or (C, H, W) as a map (C, H, W)."""
    return {1: (*shape, 1, 1), 2: (shape[0], 1, shape[-1])}.get(len(shape), shape)


def digest_of(dataset: Dataset) -> str:
    """A short hash of the training data, by which a continued run knows them."""
    digest = hashlib.sha256(dataset.train.targets.tobytes())
    digest.update(dataset.train.inputs[:100].tobytes())
    return digest.hexdigest()[:16]
