"""A dataset as a vector: sizes, class counts, and statistics of a fixed small network's features.

The network has random weights that are the same everywhere, so that embeddings can be compared
without training anything. It follows the idea of describing a dataset by what a fixed network sees
in it (Achille et al., "Task2Vec: Task Embedding for Meta-Learning", ICCV 2019; Lee et al., "Rapid
Neural Architecture Search by Learning to Generate Graphs from Datasets", ICLR 2021), with features
of random convolutions in place of a trained network's (Rahimi & Recht, "Weighted Sums of Random
Kitchen Sinks", NIPS 2008).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hwnas.data import Dataset

SAMPLES = 256
"""Training samples, drawn with a fixed seed, that the network sees."""
SIDE = 32
"""Height and width to which maps are resized."""
FEATURES = 16
"""Channels of the network's last layer."""
LENGTH = 5 + 3 * FEATURES
"""Numbers of an embedding: sizes, means and deviations of the features, shares of the classes."""
SCALES = np.concatenate([np.full(5, 2.0), np.full(2 * FEATURES, 0.3), np.full(FEATURES, 0.15)])
"""By how much two datasets differ in each number before they count as different."""
OTHER_TASK = 0.25
"""Factor of the similarity of datasets with different kinds of tasks."""


def embed(dataset: Dataset) -> tuple[float, ...]:
    """Embed a dataset; (LENGTH,) finite numbers.

    In this order: binary logarithms of the number of training samples, the number of classes, the
    number of values in one sample and its longest side; the entropy of the class counts as a share
    of the largest; means, then standard deviations of the network's features; and the share of each
    feature's variance that lies between the classes (0 where targets are not classes).
    """
    split = dataset.train
    drawn = np.random.default_rng(0).permutation(len(split))[:SAMPLES]
    part = split.take(np.sort(drawn))
    features = _features(dataset, part.inputs)
    labels = part.targets if part.targets.ndim == 1 else None
    longest = max((max(one.shape) for one in dataset.inputs), default=0)
    shape = dataset.input_shape or (longest,)
    values = sum(int(np.prod(one.shape)) for one in dataset.inputs) or int(np.prod(shape))
    sizes = np.log2([len(split), max(len(dataset.classes), 1), values, max(shape)])
    balance = _balance(split.targets, len(dataset.classes)) if labels is not None else 0.0
    between = np.zeros(FEATURES) if labels is None else _between(features, labels)
    parts = [sizes, [balance], features.mean(axis=0), features.std(axis=0), between]
    return tuple(round(float(value), 6) for value in np.concatenate(parts))


def similarity(
    one: tuple[float, ...], other: tuple[float, ...], *, same_task: bool = True
) -> float:
    """How alike two datasets are, from their embeddings, 0 to 1; 0 for those of other lengths."""
    if len(one) != len(other) or len(one) != LENGTH:
        return 0.0
    distance = (np.array(one) - np.array(other)) / SCALES
    alike = float(np.exp(-0.5 * np.mean(distance**2)))
    return alike if same_task else OTHER_TASK * alike


def _features(dataset: Dataset, inputs: np.ndarray) -> np.ndarray:
    """Features (samples, FEATURES) of the fixed network; of several inputs their mean."""
    given = dataset.normalise(inputs)
    tensors = given if isinstance(given, tuple) else (given,)
    with torch.no_grad():
        found = [_network(_as_maps(one)) for one in tensors]
    features: np.ndarray = torch.stack(found).mean(dim=0).double().numpy()
    return features


def _as_maps(x: Tensor) -> Tensor:
    """Any input as three maps of SIDE x SIDE, (N, 3, SIDE, SIDE).

    Tokens become the sine of their index, so that equal tokens are equal; channels are averaged
    unless there are three of them.
    """
    x = torch.sin(x.float()) if not x.is_floating_point() else x
    x = x.flatten(start_dim=2) if x.ndim == 3 else x
    if x.ndim < 4:
        x = x.reshape(len(x), 1, -1, 1) if x.ndim == 2 else x.unsqueeze(3)
    x = x if x.shape[1] == 3 else x.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    return functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)


def _network(x: Tensor) -> Tensor:
    """Three convolutions with fixed random weights and ReLUs, then the mean; (N, FEATURES)."""
    generator = torch.Generator().manual_seed(0)
    channels = 3
    for width in (8, 16, FEATURES):
        weight = torch.randn(width, channels, 3, 3, generator=generator)
        scale = (2 / (9 * channels)) ** 0.5
        x = functional.relu(functional.conv2d(x, scale * weight, stride=2, padding=1))
        channels = width
    return x.mean(dim=(2, 3))


def _balance(targets: np.ndarray, classes: int) -> float:
    """The entropy of the class counts as a share of that of equal counts, 0 to 1."""
    shares = np.bincount(targets, minlength=classes) / len(targets) if classes > 1 else np.ones(1)
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum() / np.log(max(classes, 2)))


def _between(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of each feature's variance between classes, (FEATURES,), corrected for chance."""
    total = features.var(axis=0) * len(labels) + 1e-12
    classes = np.unique(labels)
    within = sum(
        ((features[labels == c] - features[labels == c].mean(axis=0)) ** 2).sum(axis=0)
        for c in classes
    )
    free = max(len(labels) - len(classes), 1)
    share: np.ndarray = 1 - (within / free) / (total / max(len(labels) - 1, 1))
    return share.clip(0.0, 1.0)
