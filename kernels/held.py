"""What holds the tensors of a cell: the tensors themselves, or vectors of several.

PyTorch knows of the holders alone; the kernels get the address of every tensor in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwnas.kernels.flat import FlatTensors, Slot, Slots
from hwnas.kernels.plan import ChosenTensors, Edge, chosen_tensors, parameter_shape

STATISTICS = ("running_mean", "running_var")


class Place(NamedTuple):
    """Where a tensor of a cell lies.

    Attributes:
        holder: number of the tensor that holds it.
        slot: where it lies there if that is a vector of several; None if it is the holder itself.
        candidate: name of the candidate that it belongs to.
        name: of the tensor.
    """

    holder: int
    slot: Slot | None
    candidate: str
    name: str

    @property
    def start(self) -> int:
        """The element of the holder at which it begins."""
        return 0 if self.slot is None else self.slot.start

    def expected_shape(self, channels: int) -> tuple[int, ...]:
        """The shape that the kernels expect of it for states of some channels."""
        if self.name.endswith(STATISTICS):
            return (channels,)
        return parameter_shape(self.candidate, self.name, channels)


class Places:
    """The places of some tensors of a cell, in the plan's order.

    Args:
        places: of the tensors. Those that are their own holders have its number in their order.

    Attributes:
        holders: for each tensor the number of its holder.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.listed = places
        self.holders = [place.holder for place in places]
        self._are_holders = all(place.slot is None for place in places)

    def addresses(self, holders: Sequence[int], element_bytes: int) -> list[int]:
        """The address of each tensor, from those of the holders."""
        if self._are_holders:
            return list(holders)
        numbers, starts = self._arrays
        found: list[int] = (np.array(holders, np.int64)[numbers] + starts * element_bytes).tolist()
        return found

    @cached_property
    def _arrays(self) -> NDArray[np.int64]:
        """Numbers of holders, and where the tensors begin there, (2, tensors)."""
        return np.array([self.holders, [place.start for place in self.listed]], np.int64)


class Held:
    """Some tensors of a cell, and what holds them.

    Args:
        tensors: the holders.
        places: of the cell's tensors in them, in the plan's order.
        fault: why the kernels cannot read them, None if nothing is known to be wrong.

    Attributes:
        tensors: as given.
        places: as given.
    """

    def __init__(self, tensors: list[Tensor], places: Sequence[Place], fault: str | None) -> None:
        self.tensors = tensors
        self.places = Places(places)
        self._fault = fault
        self._lengths = [tensor.numel() for tensor in tensors]
        self._expected: dict[int, list[tuple[int, ...]] | str] = {}

    def misfit(self, channels: int, device: torch.device) -> str | None:
        """Why the kernels cannot read the holders for states of some channels; None if they can."""
        if channels not in self._expected:
            self._expected[channels] = self._expected_shapes(channels)
        expected = self._expected[channels]
        if isinstance(expected, str):
            return expected
        for number, (tensor, shape) in enumerate(zip(self.tensors, expected, strict=True)):
            if tensor.shape == shape and tensor.device == device:
                continue
            place = self.places.listed[self.places.holders.index(number)]
            what = f"{place.candidate}: {place.name}"
            if place.slot is not None:
                what = f"{place.candidate}: the vector with {place.name}"
            if tensor.shape != shape:
                return (
                    f"{what} is {tuple(tensor.shape)}, expected {shape} for states of {channels} "
                    "channels"
                )
            return f"{what} is on {tensor.device}, the states on {device}"
        return None

    def _expected_shapes(self, channels: int) -> list[tuple[int, ...]] | str:
        """The shape that each holder must have, or why the kernels cannot read them."""
        if self._fault is not None:
            return self._fault
        expected: list[tuple[int, ...]] = [(length,) for length in self._lengths]
        for place in self.places.listed:
            shape = place.expected_shape(channels)
            if place.slot is None:
                expected[place.holder] = shape
            elif place.slot.shape != shape:
                return (
                    f"{place.candidate}: {place.name} is {place.slot.shape}, expected {shape} for "
                    f"states of {channels} channels"
                )
        return expected

    def separate(self) -> list[Tensor]:
        """The tensors themselves, as views of what holds them."""
        return [
            self.tensors[place.holder]
            if place.slot is None
            else self.tensors[place.holder][place.slot.start : place.slot.end]
            for place in self.places.listed
        ]

    @cached_property
    def order(self) -> tuple[int, ...] | None:
        """The tensors in the order of the holders' elements, as positions in the plan's order.

        None where a holder has other elements too, or a tensor is listed twice.
        """
        order = sorted(
            range(len(self.places.listed)),
            key=lambda i: (self.places.listed[i].holder, self.places.listed[i].start),
        )
        ends = [0] * len(self.tensors)
        for place in (self.places.listed[i] for i in order):
            if place.start != ends[place.holder]:
                return None
            ends[place.holder] = (
                self._lengths[place.holder] if place.slot is None else place.slot.end
            )
        return tuple(order) if ends == self._lengths else None


def held_tensors(edges: Sequence[Edge]) -> tuple[Held, Held]:
    """The parameters of a cell, and its running means, then variances.

    The elements of all holders of parameters, one after the other, are the parameters in the plan's
    order.
    """
    chosen = list(chosen_tensors(edges))
    return _held_parameters(chosen), _held_statistics(chosen)


def _held_parameters(chosen: Sequence[ChosenTensors]) -> Held:
    tensors: list[Tensor] = []
    places: list[Place] = []
    fault = None
    for (candidate, found), names, _ in chosen:
        if not isinstance(found, FlatTensors):
            places += [Place(len(tensors) + i, None, candidate, n) for i, n in enumerate(names)]
            tensors += [found[name] for name in names]
        elif tuple(found.layout.parameters) != names:
            fault = (
                f"the vector of {candidate} must hold {', '.join(names) or 'nothing'}, in this "
                f"order, got {', '.join(found.layout.parameters) or 'nothing'}"
            )
        elif names:
            slots, vector = found.layout.parameters, found.parameters
            fault = fault or _outside(candidate, vector, slots, is_whole=True)
            if vector is not None:
                places += [Place(len(tensors), slots[name], candidate, name) for name in names]
                tensors.append(vector)
    return Held(tensors, places, fault)


def _held_statistics(chosen: Sequence[ChosenTensors]) -> Held:
    tensors: list[Tensor] = []
    places: list[Place] = []
    numbers: dict[int, int] = {}
    fault = None
    for (candidate, found), _, prefixes in chosen:
        if isinstance(found, FlatTensors) and prefixes:
            slots, vector = found.layout.buffers, found.buffers
            fault = fault or _outside(candidate, vector, slots, is_whole=False)
            if vector is not None and id(vector) not in numbers:
                numbers[id(vector)] = len(tensors)
                tensors.append(vector)
    for kind in STATISTICS:
        for (candidate, found), _, prefixes in chosen:
            for name in (f"{prefix}.{kind}" for prefix in prefixes):
                if not isinstance(found, FlatTensors):
                    places.append(Place(len(tensors), None, candidate, name))
                    tensors.append(found[name])
                elif id(found.buffers) in numbers:
                    number, slot = numbers[id(found.buffers)], found.layout.buffers[name]
                    places.append(Place(number, slot, candidate, name))
    return Held(tensors, places, fault)


def _outside(candidate: str, vector: Tensor | None, slots: Slots, *, is_whole: bool) -> str | None:
    """Why a vector does not hold some slots, or others too if it `is_whole`; None if it does."""
    length = None if vector is None or vector.dim() != 1 else len(vector)
    if length is not None and slots.start >= 0:
        if slots.end == length or (slots.end < length and not is_whole):
            return None
    wanted = f"{slots.end} elements" if is_whole else f"at least {slots.end} elements"
    given = "none" if vector is None else f"shape {tuple(vector.shape)}"
    return f"{candidate}: a vector must have {wanted}, got {given}"


def separate_parameters(edges: Sequence[Edge]) -> list[Tensor]:
    """The parameters of a cell in the plan's order, as views of what holds them."""
    parameters: list[Tensor] = []
    for candidate, names, _ in chosen_tensors(edges):
        views = candidate.views()
        parameters += [views[name] for name in names]
    return parameters
