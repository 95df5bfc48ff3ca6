"""Arguments of the Triton kernels, made from the arguments of `Backend`'s methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hwnas.kernels.operands import NormTerms, PoolGradient, StageBackward, TableRows
from hwnas.kernels.plan import Convolution
from hwnas.kernels.triton.constants import kept_on_device
from hwnas.kernels.triton.layout import SHORT_TILES, TILES, StageTables, Tiles, divisors
from hwnas.kernels.triton.packing import PackedParameters

BASES = 4
"""Numbers of pointers are rounded up to a multiple of it."""


class Size(NamedTuple):
    """Sizes of a stage.

    Attributes:
        shape: N, H, W, OH, OW.
        width: C, the number of channels with padding.
        stride: 1 or 2.
        tiles: of the kernels for the width and the type of the values.
    """

    shape: tuple[int, int, int, int, int]
    width: int
    stride: int
    tiles: Tiles

    @staticmethod
    def of(values: Tensor, stride: int) -> Size:
        """The sizes of a stage that reads values (R, N, H, W, C)."""
        _, images, height, wide, width = values.shape
        out = (-(-height // stride), -(-wide // stride))
        tiles = TILES if values.element_size() > 2 else SHORT_TILES
        return Size((images, height, wide, *out), width, stride, tiles[width])

    @property
    def output(self) -> tuple[int, int, int, int]:
        """(N, OH, OW, C)."""
        images, _, _, height, wide = self.shape
        return images, height, wide, self.width

    @property
    def pixels(self) -> int:
        """N OH OW."""
        images, _, _, height, wide = self.shape
        return images * height * wide

    def output_divisors(self, device: torch.device) -> Tensor:
        """`divisors` of the outputs."""
        return divisors(self.shape[3], self.shape[4], device)


class Places(NamedTuple):
    """Tensors of one type as pointers to a few storages, and offsets from them.

    A kernel is compiled for the number of its pointers, which is thus the same for most calls.

    Attributes:
        bases: a tensor of each storage; their number is a multiple of `BASES`.
        places: (n, 2), for each tensor the index of its base and the elements from there.
    """

    bases: tuple[Tensor, ...]
    places: Tensor


def places_of(tensors: Sequence[Tensor]) -> Places:
    """The places of tensors, each of which is made contiguous.

    Tensors of one storage are recognised by its address, which is known sooner than the storage.
    """
    bases: list[Tensor] = []
    known: dict[int, tuple[int, int]] = {}
    numbers: list[int] = []
    element = tensors[0].element_size()
    for tensor in tensors:
        dense = tensor if tensor.is_contiguous() else tensor.contiguous()
        start = int(dense.storage_offset())
        storage = dense.data_ptr() - start * element
        found = known.get(storage)
        if found is None:
            found = known[storage] = len(bases), start
            bases.append(dense)
        numbers += [found[0], start - found[1]]
    missing = -len(bases) % BASES
    return Places((*bases, *bases[:1] * missing), _pairs(tuple(numbers), bases[0].device))


def offsets_in_one(tensors: Sequence[Tensor | None]) -> tuple[Tensor, tuple[int, ...]] | None:
    """The first part of a storage that has all the tensors, and their offsets from it.

    Returns:
        The tensor, and for each tensor the elements from there, -1 for None; None if the tensors
        are not contiguous parts of one storage.
    """
    known = [t for t in tensors if t is not None]
    starts = [int(t.storage_offset()) for t in known]
    element = known[0].element_size()
    storages = {t.data_ptr() - s * element for t, s in zip(known, starts, strict=True)}
    if len(storages) > 1 or not all(t.is_contiguous() for t in known):
        return None
    first = min(starts)
    places = iter(starts)
    offsets = tuple(-1 if t is None else next(places) - first for t in tensors)
    return known[starts.index(first)], offsets


def stage_arguments(stage: StageBackward | None) -> tuple[Any, ...]:
    """Outputs, gradients, coefficients and table rows for `stage_backward_outputs`."""
    if stage is None:
        return (None,) * 7
    lists = (stage.gradients, stage.coefficients, stage.rows)
    return stage.outputs.contiguous(), *(part for each in lists for part in places_of(each))


class EdgeGradients:
    """The gradients of pools and skip connections in the form that the kernels take.

    Attributes:
        stride: of all edges.
        has_pools: whether there is a pool among them.
        arguments: the places of gradients, coefficients and table rows, of edges with a maximum,
            then with a mean, then with a skip connection (without rows); and how many there are of
            each.
    """

    def __init__(self, edges: Sequence[PoolGradient], stride: int) -> None:
        self.stride = stride
        maxima = [(e.gradient, *e.maximum) for e in edges if e.maximum is not None]
        means = [(e.gradient, *e.mean) for e in edges if e.mean is not None]
        skips = [(e.gradient, e.identity) for e in edges if e.identity is not None]
        terms = [*maxima, *means, *skips]
        self.has_pools = bool(maxima or means)
        self.arguments: tuple[Any, ...] = (
            *places_of([term[0] for term in terms]), *places_of([term[1] for term in terms]),
            *(places_of([t[2] for t in (*maxima, *means)]) if self.has_pools else (None, None)),
            len(maxima), len(means), len(skips),
        )  # fmt: skip


NO_EDGES = (*(None,) * 6, 0, 0, 0)
"""`EdgeGradients.arguments` without edges."""


@dataclass
class StageWork:
    """What the first launch of a stage's backward pass passes on to the second.

    Attributes:
        size: sizes of the stage.
        convolutions: the B convolutions of the stage.
        parameters: the cell's parameters.
        tables: their tables; None without convolutions.
        packed: the packed weights; None without convolutions.
        intermediate: dy or dz, (B, N, OH, OW, C); None without convolutions.
        partials: partial weight gradients, (G, packed elements); None if not needed.
        d_pools: dz of maximum and mean, (2, N, OH, OW, C); None without pools.
        winners: the tap of each maximum, (N, OH, OW, C); None without pools.
    """

    size: Size
    convolutions: Sequence[Convolution]
    parameters: Sequence[Tensor]
    tables: StageTables | None
    packed: PackedParameters | None
    intermediate: Tensor | None = None
    partials: Tensor | None = None
    d_pools: Tensor | None = None
    winners: Tensor | None = None

    @property
    def flat(self) -> Tensor | None:
        """The packed weights; None without convolutions."""
        return None if self.packed is None else self.packed.flat

    @property
    def convolution_table(self) -> Tensor | None:
        """`StageTables.convolutions`; None without convolutions."""
        return None if self.tables is None else self.tables.convolutions


@kept_on_device(limit=4096)
def integers(values: tuple[int, ...], device: torch.device) -> Tensor:
    """An int32 tensor on a device."""
    return torch.tensor(values, dtype=torch.int32).to(device)


@kept_on_device(limit=4096)
def _pairs(values: tuple[int, ...], device: torch.device) -> Tensor:
    """An int64 tensor (n, 2) on a device."""
    return torch.tensor(values, dtype=torch.int64).view(-1, 2).to(device)


def rows_to_fill(
    filled: TableRows, packed: PackedParameters | None, device: torch.device
) -> Tensor:
    """For each row the row of its statistics, and the offset of its scale and shift or -1."""
    offsets = [
        -1 if n.gamma is None or packed is None else packed.affine[n.gamma] for n in filled.norms
    ]
    pairs = zip(filled.sources, [*offsets, -1], strict=False)
    return integers(tuple(number for pair in pairs for number in pair), device)


def terms_of(kinds: Sequence[int], norms: NormTerms, device: torch.device) -> Tensor:
    """For each term its kind, its row of the table, the position of its weight, and its batch."""
    count = len(kinds)
    positions = norms.positions or range(count)
    batch = norms.batch or (True,) * count
    terms = zip(kinds, norms.rows, positions, batch, strict=True)
    return integers(tuple(int(number) for term in terms for number in term), device)
