"""What every method of the Triton backend needs: memory, launches, packed weights, a count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hwnas.kernels.triton.backward as backward
import hwnas.kernels.triton.layout as layout
from hwnas.kernels.plan import CellPlan, Convolution
from hwnas.kernels.triton.arguments import Size, WeightSums, integers
from hwnas.kernels.triton.layout import PackedParameters, StageTables

PRECISIONS = ("ieee", "tf32")


class TritonLauncher:
    """Allocates, launches, and keeps weights in the layout of the kernels.

    Args:
        precision: of float32 matrix products, `ieee` or `tf32`.
    """

    def __init__(self, precision: str = "ieee") -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
        self.precision = precision

    def pack(self, plan: CellPlan, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """The same parameters, with a cell's weights laid out once for all later calls.

        Weight gradients of calls with them are not written before `finish`.
        """
        groups = plan.groups
        convolutions = tuple(c for g in groups for stage in (g.first, g.second) for c in stage)
        if not convolutions:
            return parameters
        width = layout.padded_width(layout.channels_of(convolutions, parameters))
        return PackedParameters(parameters, convolutions, width)

    def finish(
        self, parameters: Sequence[Tensor], weight_gradients: Sequence[Tensor | None]
    ) -> None:
        """Write the weight gradients of all calls with parameters that `pack` returned."""
        if isinstance(parameters, PackedParameters) and parameters.pending:
            self._write_weight_gradients(parameters.pending, parameters, weight_gradients)
            parameters.pending = []

    def _write_weight_gradients(
        self,
        stages: Sequence[WeightSums],
        parameters: Sequence[Tensor],
        weight_gradients: Sequence[Tensor | None],
    ) -> None:
        positions = [i for stage in stages for i in stage.tables.weights]
        rows, start = [], 0
        for partials, tables in stages:
            rows += [len(partials), tables.elements, start]
            start += sum(parameters[i].numel() for i in tables.weights)
        device = stages[0].partials.device
        out = self._empty((start,), parameters[positions[0]].dtype, device)
        largest = max(stage.tables.elements for stage in stages)
        block = layout.SUM_BLOCK
        self._launch(
            backward.sum_weight_gradients, (triton.cdiv(largest, block), len(stages)),
            tuple(stage.partials for stage in stages),
            tuple(stage.tables.destinations for stage in stages),
            integers(tuple(rows), device), out, BLOCK=block, num_warps=4,
        )  # fmt: skip
        pieces = out.split([parameters[i].numel() for i in positions])
        wanted = [
            (target, piece.view(target.shape))
            for piece, target in zip(pieces, (weight_gradients[i] for i in positions), strict=True)
            if target is not None
        ]
        torch._foreach_copy_([target for target, _ in wanted], [piece for _, piece in wanted])

    def _tables(
        self,
        values: Tensor,
        convolutions: Sequence[Convolution],
        parameters: Sequence[Tensor] | None,
    ) -> tuple[StageTables | None, PackedParameters | None]:
        """Tables and packed weights of a stage; None without convolutions."""
        if not convolutions or parameters is None:
            return None, None
        chosen, width = tuple(convolutions), values.shape[-1]
        if isinstance(parameters, PackedParameters) and parameters.width == width:
            packed = parameters
        else:
            packed = PackedParameters(parameters, chosen, width)
        offsets = tuple(packed.offsets[c.weights] for c in chosen)
        tables = layout.stage_tables(
            chosen, offsets, packed.channels, width, len(values), values.device
        )
        return tables, packed

    def _options(self, size: Size, kernel: str) -> dict[str, Any]:
        """What a kernel of a stage, a field of `Tiles`, is compiled for.

        One stage: Triton's software pipelining does not compile beside `pin` for sm_100.
        """
        tile = getattr(layout.TILES[size.width], kernel)
        return {
            "STRIDE": size.stride, "C": size.width, "BLOCK": tile.pixels,
            "BLOCK_K": tile.block_k, "PRECISION": self.precision, "num_warps": tile.warps,
            "num_stages": 1, "maxnreg": tile.registers,
        }  # fmt: skip

    def _empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory that the kernels fill."""
        return torch.empty(tuple(shape), dtype=dtype, device=device)

    def _launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        """Run a kernel on its tensors' device."""
        device = next(a for a in arguments if isinstance(a, Tensor)).device
        for counter in _COUNTERS:
            counter.kernels += 1
            counter.paused = True
        with torch.cuda.device(device if device.type == "cuda" else -1):
            self._run(kernel, grid, *arguments, **options)
        for counter in _COUNTERS:
            counter.paused = False

    def _run(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        kernel[grid](*arguments, **options)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels."""
    return bool(triton.knobs.runtime.interpret)


class LaunchCounter(TorchDispatchMode):
    """Counts what would be launched on a GPU.

    Attributes:
        kernels: Triton kernels.
        operators: launches of PyTorch operators by name. One operator is one launch, for what the
            fused cell uses, but those that only allocate or make views, and those that take lists
            of tensors: `AT_ONCE` says how many of these one launch can hold.
        paused: whether a Triton kernel is being run: its interpreter uses PyTorch as well.
    """

    FREE = (
        "aten::empty", "aten::new_empty", "aten::lift_fresh", "aten::_local_scalar_dense",
        "aten::promote_types",
    )  # fmt: skip
    AT_ONCE = {"aten::cat": 128, "aten::_foreach_copy_": 64}

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.operators: dict[str, int] = {}
        self.paused = False

    @property
    def total(self) -> int:
        """All launches."""
        return self.kernels + sum(self.operators.values())

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Count an operator and run it."""
        name = function._schema.name
        views = any(a.alias_info and not a.alias_info.is_write for a in function._schema.arguments)
        if not self.paused and not views and not name.startswith(self.FREE):
            launches = -(-len(args[0]) // self.AT_ONCE[name]) if name in self.AT_ONCE else 1
            self.operators[name] = self.operators.get(name, 0) + launches
        return function(*args, **(kwargs or {}))


_COUNTERS: list[LaunchCounter] = []


@contextmanager
def count_launches() -> Iterator[LaunchCounter]:
    """Count the launches made inside."""
    counter = LaunchCounter()
    _COUNTERS.append(counter)
    try:
        with counter:
            yield counter
    finally:
        _COUNTERS.remove(counter)
