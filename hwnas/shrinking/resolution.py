"""Smaller inputs of a trained network: at which sizes it runs, and what resizes its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hwnas.errors import InputError, first_line

Size = tuple[int, int]
"""Height and width in pixels."""
NAME = "input size"
"""The name of the choice; no module has a name with a space in it by which it can be reached."""


def resizing(size: Size) -> nn.Module:
    """Bilinear resizing, (N, C, H, W) to (N, C) and the given height and width."""
    return nn.Upsample(size=size, mode="bilinear")


def in_words(size: Size) -> str:
    """A size as the name of an option: `24x32`."""
    return f"{size[0]}x{size[1]}"


def smaller_sizes(
    model: nn.Module, inputs: Sequence[Tensor], shares: Sequence[float]
) -> tuple[Size, ...]:
    """The sizes at which a network may run, ascending; the last is that of its inputs.

    Args:
        model: the network in evaluation mode.
        inputs: example inputs, (N, ...) each.
        shares: of height and width, between 0 and 1.

    Raises:
        InputError: when the inputs are no images, or the network does not run at one of the sizes
            or returns outputs of another shape then; the layer at which it fails is named.
    """
    if not shares:
        return ()
    if len(inputs) != 1 or inputs[0].dim() != 4:
        raise InputError(
            "only images can be resized",
            where="shrink.resolutions",
            expected="a model with one input (N, C, H, W)",
            actual=", ".join(str(tuple(x.shape)) for x in inputs),
        )
    (images,) = inputs
    whole: Size = images.shape[-2], images.shape[-1]
    sizes = sorted({(max(1, round(s * whole[0])), max(1, round(s * whole[1]))) for s in shares})
    sizes = [size for size in sizes if size != whole]
    for size in sizes:
        _require_runs(model, images, size)
    return (*sizes, whole) if sizes else ()


@torch.no_grad()
def _require_runs(model: nn.Module, images: Tensor, size: Size) -> None:
    """Refuse a size at which the network does not run, or returns something of another shape."""
    entered: list[str] = []

    def hook(path: str) -> Any:
        return lambda module, given: entered.append(path)

    handles = [m.register_forward_pre_hook(hook(path)) for path, m in model.named_modules() if path]
    expected, where, actual = model(images).shape, "", ""
    entered.clear()
    try:
        found = model(resizing(size)(images)).shape
    except Exception as error:  # the model's own code may raise anything
        where, actual = f", at {entered[-1]}" if entered else "", first_line(error)
    else:
        actual = "" if found == expected else f"outputs {tuple(found)}, not {tuple(expected)}"
    finally:
        for handle in handles:
            handle.remove()
    if actual:
        raise InputError(
            f"the model does not run on inputs of {in_words(size)}",
            where=f"shrink.resolutions{where}",
            expected="a head that pools maps of any size",
            actual=actual,
            mend="leave shrink.resolutions out",
        )
