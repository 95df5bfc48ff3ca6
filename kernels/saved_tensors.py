"""What the fused operators save for their backward pass, which can itself not be differentiated.

What `torch.autograd.graph.saved_tensors_hooks` return is checked, since kernels would read past the
end of a tensor that is smaller than the one that was saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor

from hwnas.kernels.transforms import SECOND_ORDER, active_transform


class SavedTensors:
    """What an operator saves for its backward pass, and what it gets back.

    Args:
        ctx: the context that autograd hands to `setup_context` and to the backward pass.
        tensors: the tensors to save.
        states: how many of them, at the beginning, tell the kernels the sizes of all others.
    """

    def __init__(self, ctx: Any, tensors: Sequence[Tensor], states: int) -> None:
        ctx.save_for_backward(*tensors)
        self._kinds = _kinds(tensors)
        self._shapes = [t.shape for t in tensors[:states]]

    def of(self, ctx: Any) -> tuple[Tensor, ...]:
        """The saved tensors, in the backward pass.

        Raises:
            RuntimeError: when the backward pass runs under a transform of PyTorch.
            ValueError: when a hook returned a tensor of another size, type or device, or a state of
                another shape.
        """
        transform = active_transform()
        if transform is not None:
            raise RuntimeError(
                f"the backward pass of a fused operator cannot run under {transform}: "
                "use impl='torch'"
            )
        found: tuple[Tensor, ...] = ctx.saved_tensors
        kinds = _kinds(found)
        if kinds != self._kinds:
            # One list for each property, in which the tensors have the same position.
            saved, returned = (list(zip(*lists, strict=True)) for lists in (self._kinds, kinds))
            i = next(i for i, kind in enumerate(saved) if kind != returned[i])
            raise ValueError(
                f"a tensor of {_described(saved[i])} was saved for the backward pass, but "
                f"saved_tensors_hooks returned one of {_described(returned[i])}"
            )
        for shape, tensor in zip(self._shapes, found, strict=False):
            if tensor.shape != shape:
                raise ValueError(
                    f"a tensor of shape {tuple(shape)} was saved for the backward pass, but "
                    f"saved_tensors_hooks returned one of shape {tuple(tensor.shape)}"
                )
        return found


def _kinds(tensors: Sequence[Tensor]) -> tuple[list[Any], ...]:
    """Numbers of elements and dimensions, types and devices."""
    # Lists of tuples would start the garbage collector, which takes longer than all the rest.
    return (
        list(map(Tensor.numel, tensors)),
        list(map(Tensor.dim, tensors)),
        list(map(attrgetter("dtype"), tensors)),
        list(map(attrgetter("device"), tensors)),
    )


def _described(kind: tuple[Any, ...]) -> str:
    elements, dimensions, dtype, device = kind
    return f"{elements} elements in {dimensions} dimensions, {dtype}, on {device}"


def refuse_second_derivatives(ctx: Any, *gradients: Any) -> None:
    """The derivative of an operator that is itself a backward pass.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(SECOND_ORDER)
