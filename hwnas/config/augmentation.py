"""The settings of a training's augmentation; `hwnas.data.augmentation` has what suits what."""

from __future__ import annotations

from pydantic import Field

from hwnas.config.base import Section


class AugmentationConfig(Section):
    """Random changes of training samples; 0 or false turns each off."""

    crop_padding: int = Field(
        0, ge=0, description="augmentation: pixels of padding before a random crop"
    )
    flip: bool = Field(False, description="augmentation: random horizontal flips")
    cutout: int = Field(
        0, ge=0, description="augmentation: side in pixels of a square that is blanked"
    )
    scale: float = Field(
        0.0, ge=0, le=0.9, description="augmentation: largest relative change of an image's size"
    )
    random_erasing: float = Field(
        0.0,
        ge=0,
        le=1,
        description="augmentation: probability to fill a rectangle of an image with noise",
    )
    rand_augment: int = Field(
        0, ge=0, le=30, description="augmentation: strength of two random operations on each image"
    )
    mixup: float = Field(
        0.0,
        ge=0,
        description="augmentation: parameter of the Beta distribution by which two samples and "
        "their classes are mixed",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        description="augmentation: the same for rectangles of another image; beside mixup, each "
        "batch takes one of both",
    )
    time_mask: int = Field(
        0, ge=0, description="augmentation: times of a sound or signal that are blanked, at most"
    )
    frequency_mask: int = Field(
        0, ge=0, description="augmentation: bands of a sound that are blanked, at most"
    )
    time_shift: int = Field(
        0, ge=0, description="augmentation: times by which a sound or signal is moved, at most"
    )
    noise: float = Field(
        0.0,
        ge=0,
        description="augmentation: standard deviation of added noise, in those of the training "
        "data",
    )
    token_dropout: float = Field(
        0.0,
        ge=0,
        le=1,
        description="augmentation: probability to replace a word or character by an unknown one",
    )
