"""Which parts of augmentation there are, what samples they suit, and in which order they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hwnas.data.arrays import KIND
from hwnas.data.augmentation.images import cropped, cut_out, erased, flipped, rand_augmented
from hwnas.data.augmentation.mixing import cut_and_mixed, mixed_up
from hwnas.data.augmentation.scenes import Movement
from hwnas.data.augmentation.sequences import masked, noisy, shifted, with_dropped_tokens
from hwnas.data.dataset import Dataset
from hwnas.data.formats import IMAGE_CLASSIFICATION, IMAGE_GENERATION
from hwnas.data.questions import SEPARATOR
from hwnas.data.replies import REPLY
from hwnas.data.text import PADDING, UNKNOWN
from hwnas.errors import InputError

SampleKind = Literal["image", "sound", "signal", "table", "text", "latent", "several"]
TargetKind = Literal["class", "value", "labels", "maps", "boxes", "images"]
"""One class, one value, a class for each position or pixel, boxes, or an image."""


class Suits(NamedTuple):
    """The samples and targets that a part of augmentation suits."""

    samples: tuple[SampleKind, ...]
    targets: tuple[TargetKind, ...]


WHOLE: tuple[TargetKind, ...] = ("class", "value")
"""Targets that do not depend on places inside a sample."""
ANY: tuple[TargetKind, ...] = (*WHOLE, "labels", "maps", "boxes")
PLACED = Suits(("image",), ("class", "maps", "boxes"))
PARTS: Mapping[str, Suits] = MappingProxyType(
    {
        "crop_padding": PLACED,
        "flip": PLACED,
        "scale": PLACED,
        "cutout": Suits(("image",), ("class",)),
        "random_erasing": Suits(("image",), ("class",)),
        "rand_augment": Suits(("image",), ("class",)),
        "mixup": Suits(("image", "sound", "signal", "table"), ("class",)),
        "cutmix": Suits(("image", "sound"), ("class",)),
        "time_mask": Suits(("sound", "signal"), ANY),
        "frequency_mask": Suits(("sound",), ANY),
        "time_shift": Suits(("sound", "signal"), WHOLE),
        "noise": Suits(("image", "sound", "signal", "table"), ANY),
        "token_dropout": Suits(("text",), ANY),
    }
)
"""What each part suits, by the name of its setting."""


def sample_kind(dataset: Dataset) -> SampleKind:
    """What one sample of a dataset is."""
    if dataset.inputs:
        return "several"
    if dataset.vocabulary:
        return "text"
    if dataset.task == "audio-keywords":
        return "sound"
    if dataset.task == IMAGE_GENERATION:
        return "latent"
    stated: SampleKind | None = dataset.reading.get(KIND)
    if stated is not None:
        return stated
    is_image = dataset.train.inputs.dtype != np.float32 or dataset.task == IMAGE_CLASSIFICATION
    return "image" if is_image else "table"


def _target_kind(dataset: Dataset) -> TargetKind:
    targets = dataset.train.targets
    if targets.dtype == np.int64:
        by_dimensions: dict[int, TargetKind] = {1: "class", 2: "labels"}
        spread: TargetKind = "labels" if dataset.vocabulary else "maps"
        return by_dimensions.get(targets.ndim, spread)
    by_size: dict[int, TargetKind] = {3: "boxes", 4: "images"}
    return by_size.get(targets.ndim, "value")


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of normalised training samples; 0 or False turns each part off.

    Attributes:
        crop_padding: pad every side with this many zero pixels, then crop a random window of the
            original size.
        flip: mirror each image horizontally with probability one half.
        cutout: set a square with this side length (pixels) around a random centre to zero; the
            square is clipped at the image border.
        scale: largest relative change of an image's size.
        random_erasing: probability to fill a rectangle of an image with noise.
        rand_augment: strength, 1 to 30, of two random operations on each image.
        mixup, cutmix: parameter of the Beta distribution of the share by which two samples are
            mixed. If both are given, each batch takes one of them at random.
        time_mask, frequency_mask: largest number of times or bands that are set to zero.
        time_shift: largest number of times by which a sample is moved.
        noise: standard deviation of added noise, in standard deviations of the training data.
        token_dropout: probability to replace a token by that of unknown words.

    Raises:
        InputError: a number is out of range.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    scale: float = 0.0
    random_erasing: float = 0.0
    rand_augment: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    time_mask: int = 0
    frequency_mask: int = 0
    time_shift: int = 0
    noise: float = 0.0
    token_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the range of each number."""
        limits = {"scale": 0.9, "random_erasing": 1, "rand_augment": 30, "token_dropout": 1}
        for name, value in self.active.items():
            most = limits.get(name, float("inf"))
            if not 0 <= value <= most:
                size = " pixels" if name in ("crop_padding", "cutout") else ""
                raise InputError(
                    "the size is negative" if value < 0 else "the number is too large",
                    where=name,
                    expected=f">= 0{size}" if most == float("inf") else f"0 to {most}",
                    actual=value,
                )

    @classmethod
    def of(cls, settings: Any) -> Augmentation:
        """The augmentation of settings that have its parts as attributes, such as `[train]`."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})

    @property
    def active(self) -> dict[str, Any]:
        """The parts that are on, with their values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}

    def only(self, name: str) -> Augmentation:
        """One of the parts alone."""
        return replace(Augmentation(), **{name: getattr(self, name)})

    def require_suits(self, dataset: Dataset) -> None:
        """Check that every part that is on suits a dataset.

        Raises:
            InputError: naming the parts that do not, and what suits the data; or a part that could
                erase whole samples.
        """
        kind, target = sample_kind(dataset), _target_kind(dataset)
        fitting = [
            name
            for name, suits in PARTS.items()
            if kind in suits.samples
            and target in suits.targets
            # Codes of categories cannot be mixed.
            and not (dataset.categories and name == "mixup")
        ]
        wrong = [name for name in self.active if name not in fitting]
        if wrong:
            words = "samples with several inputs" if kind == "several" else f"{kind}s"
            raise InputError(
                f"augmentation that does not suit {words} with targets of kind {target}",
                where=", ".join(wrong),
                expected=f"only {', '.join(fitting)}" if fitting else "none",
                actual=", ".join(f"{name} = {self.active[name]}" for name in wrong),
            )
        self._require_smaller(dataset)

    def _require_smaller(self, dataset: Dataset) -> None:
        """Raise InputError if a part could erase whole samples."""
        shape = dataset.input_shape
        sides = {
            "crop_padding": min(shape[-2:]) if len(shape) == 3 else 0,
            "cutout": min(shape[-2:]) if len(shape) == 3 else 0,
            "time_mask": shape[-1] if shape else 0,
            "time_shift": shape[-1] if shape else 0,
            "frequency_mask": shape[-2] if len(shape) == 3 else 0,
        }
        large = [n for n, side in sides.items() if n in self.active and self.active[n] >= side]
        if large:
            samples = "images" if large[0] in ("crop_padding", "cutout") else "samples"
            unit = "pixels" if samples == "images" else "times or bands"
            raise InputError(
                f"the augmentation could erase whole {samples}",
                where=", ".join(large),
                expected=f"less than the side of {sides[large[0]]} {unit}",
                actual=", ".join(str(self.active[name]) for name in large),
            )

    def apply(self, samples: Tensor, rng: np.random.Generator) -> Tensor:
        """Apply the parts that leave targets of whole samples as they are.

        Args:
            samples: (N, C, H, W), normalised, so that zero is the mean of the training data.
            rng: source of all random choices.

        Returns:
            The augmented samples, of the same shape.
        """
        if self.scale:
            samples = Movement.drawn(samples, self.scale, 0, False, rng).of_images(samples)
        if self.crop_padding:
            samples = cropped(samples, self.crop_padding, rng)
        if self.flip:
            samples = flipped(samples, rng)
        if self.rand_augment:
            samples = rand_augmented(samples, self.rand_augment, rng)
        if self.cutout:
            samples = cut_out(samples, self.cutout, rng)
        if self.random_erasing:
            samples = erased(samples, self.random_erasing, rng)
        return self._apply_to_sequences(samples, rng)

    def _apply_to_sequences(self, samples: Tensor, rng: np.random.Generator) -> Tensor:
        if self.time_shift:
            samples = shifted(samples, self.time_shift, rng)
        if self.noise:
            samples = noisy(samples, self.noise, rng)
        if self.frequency_mask:
            samples = masked(samples, 2, self.frequency_mask, rng)
        if self.time_mask:
            samples = masked(samples, 3, self.time_mask, rng)
        return samples

    def apply_to_batch(
        self, samples: Tensor, targets: Tensor, dataset: Dataset, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Apply all parts to a batch and, where they change, to its targets.

        Args:
            samples: normalised samples (N, C, H, W), or tokens (N, L).
            targets: as described in `hwnas.data.dataset`.
            dataset: what the samples are of; `require_suits` has accepted it.
            rng: source of all random choices.

        Returns:
            Samples and targets. Mixed samples have probabilities of classes (N, K) as targets.
        """
        if dataset.vocabulary:
            words = dataset.vocabulary
            unknown = words.index(UNKNOWN) if UNKNOWN in words else 0
            kept = [words.index(mark) for mark in (PADDING, SEPARATOR, REPLY) if mark in words]
            dropped = with_dropped_tokens(samples, self.token_dropout, unknown, kept, rng)
            return dropped, targets
        if _target_kind(dataset) in ("maps", "boxes"):
            return self._apply_to_scenes(samples, targets, rng)
        codes = len(dataset.categories)
        if codes:  # categories are no numbers to be changed
            changed, codes_kept = samples[:, :-codes], samples[:, -codes:]
            return torch.cat([self.apply(changed, rng), codes_kept], dim=1), targets
        return self._mixed(self.apply(samples, rng), targets, len(dataset.classes), rng)

    def _apply_to_scenes(
        self, samples: Tensor, targets: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        if self.scale or self.crop_padding or self.flip:
            moved = Movement.drawn(samples, self.scale, self.crop_padding, self.flip, rng)
            of_targets = moved.of_boxes if targets.is_floating_point() else moved.of_maps
            samples, targets = moved.of_images(samples), of_targets(samples, targets)
        return self._apply_to_sequences(samples, rng), targets

    def _mixed(
        self, samples: Tensor, targets: Tensor, classes: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        cuts = bool(self.cutmix) and (not self.mixup or bool(rng.integers(2)))
        if cuts:
            return cut_and_mixed(samples, targets, classes, self.cutmix, rng)
        if self.mixup:
            return mixed_up(samples, targets, classes, self.mixup, rng)
        return samples, targets
