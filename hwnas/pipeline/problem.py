"""What a run learns and what it searches: data, task, search space and its supernet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.architecture import Architecture
from hwnas.calibration.networks import read_accuracies
from hwnas.config import Config, DataConfig
from hwnas.data import Dataset, Normalisation, load_dataset
from hwnas.data.inputs import InputShape, named_inputs
from hwnas.data.text import PADDING
from hwnas.errors import InputError, printable
from hwnas.evaluators.function import Evaluate
from hwnas.spaces import SearchSpace, build_space
from hwnas.spaces.networks import Supernet
from hwnas.spaces.options import SpaceOptions
from hwnas.spaces.traced.described import TRACED
from hwnas.strategies import STRATEGIES
from hwnas.tasks import Task, task_of

MOST_CLASSES = 12
"""Classes whose numbers of samples are listed."""


@dataclass
class Problem:
    """The data of a configuration and the search space that fits them, loaded at first use.

    Attributes:
        config: the resolved configuration.
        where: names the configuration's file in errors.
    """

    config: Config
    where: str

    @property
    def has_data(self) -> bool:
        """Whether there are data to train on and to take scores on."""
        return True

    @property
    def evaluate(self) -> Evaluate | None:
        """A function of the user's that judges modules, if one was given."""
        return None

    @property
    def is_detached(self) -> bool:
        """Whether this is the run of a user's own model, and the model is not at hand."""
        return self.config.data.name == "own"

    def try_functions(self) -> None:
        """Try what was given in Python before anything long begins; here nothing was."""

    @cached_property
    def dataset(self) -> Dataset:
        """The training and test samples.

        Raises:
            InputError: for the run of a user's own model, which was given its data in Python.
        """
        if self.is_detached:
            raise InputError(
                "the model and the data of this run were given in Python",
                where=self.where,
                mend="call hwnas.search(model, ...) with the same arguments to continue it",
            )
        return read_dataset(self.config.data, self.config.seed)

    @cached_property
    def preprocessing(self) -> Normalisation | None:
        """What the exported model does to raw inputs; None if it reads normalised ones.

        Raises:
            InputError: when it is asked for, and the inputs are tokens, or there are several.
        """
        if not self.config.export.preprocess:
            return None
        if self.dataset.inputs:
            raise InputError(
                "a model with several inputs reads normalised ones",
                where=f"{self.where}: export.preprocess",
                expected=False,
                mend="normalise them with the model's property `hwnas.inputs`",
            )
        if self.dataset.vocabulary:
            raise InputError(
                "tokens are not normalised, so there is nothing to make a part of the model",
                where=f"{self.where}: export.preprocess",
                expected=False,
            )
        return self.dataset.normalisation

    @cached_property
    def task(self) -> Task:
        """What is learned from the data: loss, metrics and head."""
        return task_of(self.dataset, self.config.task)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space at its deployed sizes.

        Raises:
            InputError: when the configuration states other sizes than the data have.
        """
        if self.is_detached:
            return build_space(TRACED, self.config.space.options, f"{self.where}: space")
        options, sizes = self.config.space.options, data_sizes(self.task)
        for key, size in sizes.items():
            if options.get(key, size) != size:
                raise InputError(
                    "the data have another size",
                    where=f"{self.where}: space.{key}",
                    expected=size,
                    actual=options[key],
                )
        return build_space(self.config.space.name, options | sizes, f"{self.where}: space")

    @cached_property
    def proxy_space(self) -> SearchSpace:
        """The search space at the sizes of the supernet, which `search.proxy` may make smaller.

        Raises:
            InputError: when the proxy changes a size that the data decide, or the choices.
        """
        where, proxy = f"{self.where}: search.proxy", self.config.search.proxy
        for key in SpaceOptions.model_fields:
            if key in proxy:
                raise InputError(
                    "this size comes from the data and cannot differ in the proxy",
                    where=f"{where}.{key}",
                )
        space = build_space(self.space.name, self.space.options.model_dump() | proxy, where)
        if space.choices != self.space.choices:
            raise InputError("the proxy has other choices than the search space", where=where)
        return space

    def supernet(self) -> Supernet:
        """A new supernet at the proxy's sizes.

        Raises:
            InputError: when its channels cannot be divided as the configuration or strategy asks.
        """
        search = self.config.search
        partial_channels = search.partial_channels or STRATEGIES[search.strategy].partial_channels
        return self.proxy_space.supernet(partial_channels)

    @property
    def input_shape(self) -> InputShape:
        """Shape of the network's input for one sample, or its inputs if there are several."""
        return self.space.options.reads

    @cached_property
    def accuracy_table(self) -> dict[Architecture, float]:
        """Accuracies, 0 to 1, by architecture, from the file `search.accuracy_table`.

        Raises:
            InputError: when the file is missing or malformed.
        """
        assert self.config.search.accuracy_table is not None
        return read_accuracies(Path(self.config.search.accuracy_table), self.space)


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose, independent of the seeds of other purposes."""
    return int(np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1)[0])


def read_dataset(data: DataConfig, seed: int) -> Dataset:
    """The data that a configuration names; limits draw samples by the run's seed.

    Raises:
        InputError: when they are missing or malformed.
    """
    return load_dataset(
        data.name,
        data.path,
        image_size=data.image_size,
        sequence_length=data.sequence_length,
        train_limit=data.train_limit,
        test_limit=data.test_limit,
        missing=data.missing,
        categories=data.categories,
        target=data.target,
        kind=data.kind,
        channels=data.channels,
        latents=data.latents,
        seed=derived_seed(seed, "data"),
    )


def data_in_words(dataset: Dataset) -> str:
    """One line about a dataset: numbers of samples, their shape, and the classes."""
    shape = " and ".join(
        one.name * bool(dataset.inputs) + " " + " x ".join(f"{size:,}" for size in one.shape)
        for one in named_inputs(dataset.reads, "")
    ).strip()
    line = (
        f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test samples "
        f"of {shape}"
    )
    if dataset.train.targets.ndim != 1:
        return line
    counts = np.bincount(dataset.train.targets, minlength=len(dataset.classes)).tolist()
    if len(set(counts)) == 1:
        return f"{line}, {len(counts):,} classes with {counts[0]:,} training samples each"
    largest = sorted(zip(counts, dataset.classes, strict=True), reverse=True)[:MOST_CLASSES]
    named = ", ".join(f"{printable(name, 30)} {count:,}" for count, name in largest)
    more = f" and {len(counts) - len(largest)} more" if len(counts) > len(largest) else ""
    return f"{line}, {len(counts):,} classes by training samples: {named}{more}"


def data_sizes(task: Task) -> dict[str, Any]:
    """The options of a search space that the data decide: sizes of inputs, and the head."""
    dataset = task.dataset
    is_text = bool(dataset.vocabulary)
    channels, height, width = (1, 1, *dataset.input_shape) if is_text else dataset.input_shape
    return {
        "input_channels": channels,
        "height": height,
        "width": width,
        "classes": task.outputs,
        "head": task.head,
        "vocabulary": len(dataset.vocabulary) if is_text else None,
        "categories": dataset.categories,
        "image_size": list(dataset.train.targets.shape[2:]) if task.head == "image" else [],
        "padding": is_text and dataset.vocabulary[0] == PADDING,
    }
