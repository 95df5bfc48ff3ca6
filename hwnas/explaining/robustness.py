"""Raw samples that are disturbed a little, to see how much of the score is lost.

The kinds follow Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", ICLR 2019 (arXiv 1903.12261), with strengths of our own.

Shapes: N samples, C channels, H rows, W columns, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hwnas.data import Dataset
from hwnas.data.formats import IMAGE_CLASSIFICATION
from hwnas.data.normalisation import LARGEST
from hwnas.data.text import UNKNOWN_TOKEN

DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Rows and columns of a shift by one pixel."""


@dataclass(frozen=True)
class Disturbance:
    """One kind of disturbance at one strength.

    Attributes:
        kind: what is done.
        strength: how much of it.
        unit: of the strength.
    """

    kind: str
    strength: float
    unit: str


def disturbances(dataset: Dataset) -> list[Disturbance]:
    """Return the disturbances that make sense for the inputs of a dataset.

    Targets stay the same under noise, blur and brightness, so these serve every task on images;
    shifts are left out where targets are places.
    """
    inputs = dataset.test.inputs
    if dataset.vocabulary:
        return [Disturbance("unknown words", share, "of the words") for share in (0.1, 0.2, 0.4)]
    if inputs.dtype == np.float32:
        spread = "standard deviations"
        return [Disturbance("noise", strength, spread) for strength in (0.1, 0.3, 1.0)]
    found = [Disturbance("noise", s, "of the range") for s in (0.02, 0.05, 0.1)]
    found += [Disturbance("blur", s, "pixels (sigma)") for s in (0.5, 1.0, 2.0)]
    found += [Disturbance("brighter", s, "of the range") for s in (0.1, 0.2, 0.4)]
    found += [Disturbance("darker", s, "of the range") for s in (0.1, 0.2, 0.4)]
    if dataset.task == IMAGE_CLASSIFICATION:
        found += [Disturbance("shift", s, "pixels") for s in (1.0, 2.0, 4.0)]
    return found


def disturbed(
    inputs: np.ndarray, dataset: Dataset, disturbance: Disturbance, seed: int = 0
) -> np.ndarray:
    """Return disturbed copies of raw samples, of the same shape and type.

    Args:
        inputs: (N, C, H, W) or tokens (N, L), as the dataset has them.
        dataset: of the samples.
        disturbance: one of `disturbances(dataset)`.
        seed: of noise and of the replaced words.
    """
    rng, strength = np.random.default_rng(seed), disturbance.strength
    if disturbance.kind == "unknown words":
        replaced = (rng.random(inputs.shape) < strength) & (inputs > 0)
        return np.where(replaced, UNKNOWN_TOKEN, inputs)
    if disturbance.kind == "shift":
        return _shifted(inputs, round(strength))
    values = inputs.astype(np.float32)
    if inputs.dtype == np.float32:
        std = dataset.normalisation.moments()[1].numpy()
        noise = rng.standard_normal(values.shape, dtype=np.float32)
        return values + np.float32(strength) * std * noise
    largest = LARGEST[inputs.dtype.name]
    kinds: dict[str, Callable[[], np.ndarray]] = {
        "noise": lambda: values + strength * largest * rng.standard_normal(values.shape),
        "blur": lambda: ndimage.gaussian_filter(values, (0, 0, strength, strength)),
        "brighter": lambda: values + strength * largest,
        "darker": lambda: values - strength * largest,
    }
    changed = kinds[disturbance.kind]()
    rounded: np.ndarray = np.rint(np.clip(changed, 0, largest)).astype(inputs.dtype)
    return rounded


def _shifted(images: np.ndarray, pixels: int) -> np.ndarray:
    """Shift each image in one of four directions in turn; the border is repeated."""
    padded = np.pad(images, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)), mode="edge")
    height, width = images.shape[2:]
    shifted = np.empty_like(images)
    for turn, (rows, columns) in enumerate(DIRECTIONS):
        top, left = pixels * (1 - rows), pixels * (1 - columns)
        part = padded[turn :: len(DIRECTIONS), :, top : top + height, left : left + width]
        shifted[turn :: len(DIRECTIONS)] = part
    return shifted


def all_disturbed(
    inputs: np.ndarray, dataset: Dataset, seed: int = 0
) -> Iterator[tuple[Disturbance, np.ndarray]]:
    """Yield each disturbance of a dataset with disturbed copies of raw samples."""
    for disturbance in disturbances(dataset):
        yield disturbance, disturbed(inputs, dataset, disturbance, seed)
