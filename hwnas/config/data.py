"""The table of a configuration that names the data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hwnas.config.base import Section


class DataConfig(Section):
    """What to learn from; see `hwnas.data.load_dataset`."""

    name: Literal[
        "fashion-mnist-slice",
        "npz",
        "folder",
        "cifar10",
        "cifar100",
        "fashion-mnist",
        "mnist",
        "masks",
        "boxes",
        "generated-segmentation",
        "generated-detection",
        "sounds",
        "generated-keywords",
        "generated-signals",
        "table",
        "generated-ratings",
        "generated-likes",
        "generated-disease",
        "text",
        "generated-text",
        "questions",
        "generated-questions",
        "replies",
        "generated-replies",
        "language",
        "generated-language",
        "own",
    ] = Field(
        description="the dataset or its format, which decides the task; `own` is what "
        "`hwnas.search(model, ...)` was given in Python"
    )
    path: str | None = Field(
        None, description="the file or folder of the data; none for datasets that ship"
    )
    image_size: int | None = Field(
        None,
        ge=4,
        le=4096,
        description="side in pixels that images from files are cropped and resized to, or that "
        "generated images have",
    )
    sequence_length: int | None = Field(
        None, ge=2, le=4096, description="words or characters in one sample of text"
    )
    train_limit: int | None = Field(
        None, ge=2, description="use only so many training samples, drawn by the seed"
    )
    test_limit: int | None = Field(
        None, ge=2, description="use only so many test samples, drawn by the seed"
    )
    missing: Literal["refuse", "mean"] = Field(
        "refuse",
        description="what to do with missing cells in numeric columns of a table: refuse the "
        "file, or fill in the mean of the column's training cells",
    )
    categories: Literal["one-hot", "embedding"] = Field(
        "one-hot",
        description="how columns of texts in a table are encoded: as a column for each text, or as "
        "codes of which the network learns a vector each",
    )
    target: Literal["number", "class"] | None = Field(
        None,
        description="what the last column of a table is; by default a class where its training "
        "cells are mostly texts, and a number otherwise",
    )
    kind: Literal["image", "signal", "table"] | None = Field(
        None,
        description="what one sample of an npz file is; by default two dimensions are a table, "
        "four are images, and three are signals, or grey images of uint8 or uint16",
    )
    latents: int | None = Field(
        None,
        ge=2,
        le=1024,
        description="length of the latent vectors from which networks are to generate images like "
        "those of the dataset; by default images are classified",
    )
    channels: Literal["first", "last"] | None = Field(
        None,
        description="whether the channels of arrays (.npz, .npy) come before or behind the other "
        "axes of a sample; by default the sizes have to tell",
    )
