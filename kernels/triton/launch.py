"""What every method of the Triton backend needs: memory, launches and packed weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import islice
from typing import Any

import torch
import triton
from torch import Tensor

from hwnas.kernels.backend import Backend
from hwnas.kernels.plan import CellPlan, Convolution, Norm
from hwnas.kernels.triton.arguments import Size, integers, offsets_in_one
from hwnas.kernels.triton.backward_inputs import sum_weight_gradients
from hwnas.kernels.triton.layout import (
    SUM_BLOCK,
    StageTables,
    groups_of,
    kinds_of,
    padded_width,
    shapes_of,
    stage_tables,
)
from hwnas.kernels.triton.packing import (
    PackedParameters,
    WeightSums,
    channels_of,
    weight_destinations,
)

PRECISIONS = ("ieee", "tf32")
MULTIPROCESSORS = 132


class TritonLauncher(Backend):
    """Allocates memory, launches kernels, and packs weights in the layout of the kernels.

    Args:
        precision: precision of float32 matrix products, `ieee` or `tf32`.

    Raises:
        ValueError: for another precision.
    """

    def __init__(self, precision: str = "ieee") -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.precision = precision

    def pack(self, plan: CellPlan, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """The same parameters, with a cell's weights packed once for all later calls.

        Weight gradients of calls with packed parameters are not written before `finish`.
        """
        groups = plan.groups
        convolutions = tuple(c for g in groups for stage in (g.first, g.second) for c in stage)
        if not convolutions:
            return parameters
        width = padded_width(channels_of(convolutions, parameters))
        norms = [norm for group in groups for norm in group.norms]
        return PackedParameters(parameters, convolutions, width, norms, counters_of(plan))

    def finish(
        self, parameters: Sequence[Tensor], weight_gradients: Sequence[Tensor | None]
    ) -> None:
        """Write the weight gradients of all calls with the packed parameters."""
        if isinstance(parameters, PackedParameters) and parameters.pending:
            self._write_weight_gradients(parameters.pending, parameters, weight_gradients)
            parameters.pending = []

    def _write_weight_gradients(
        self,
        stages: Sequence[WeightSums],
        parameters: Sequence[Tensor],
        weight_gradients: Sequence[Tensor | None],
    ) -> None:
        """Add up the partial weight gradients of some stages in their tensors.

        These are usually parts of one tensor, which the kernel writes to. Else it writes to such a
        tensor, from which they are copied.
        """
        targets = [weight_gradients[i] for stage in stages for i in stage.tables.weights]
        wanted = [target for target in targets if target is not None]
        found = offsets_in_one(targets)
        copied: list[Tensor] = []
        if found is None:
            out = self.empty((sum(t.numel() for t in wanted),), wanted[0].dtype, wanted[0].device)
            copied = list(torch.split(out, [t.numel() for t in wanted]))
            parts = iter(copied)
            found = offsets_in_one([None if t is None else next(parts) for t in targets])
            assert found is not None
        self._sum_weight_gradients(stages, *found)
        if copied:
            shaped = [part.view(t.shape) for part, t in zip(copied, wanted, strict=True)]
            torch._foreach_copy_(wanted, shaped)

    def _sum_weight_gradients(
        self, stages: Sequence[WeightSums], out: Tensor, offsets: tuple[int, ...]
    ) -> None:
        """Add up partial weight gradients; offsets from `out` of all weights, -1 if not needed."""
        starts, rows = iter(offsets), []
        destinations = []
        for stage in stages:
            rows += [len(stage.partials), stage.tables.elements]
            own = tuple(islice(starts, len(stage.tables.weights)))
            destinations.append(
                weight_destinations(
                    stage.convolutions, own, stage.channels, stage.width, out.device
                )
            )
        largest = max(stage.tables.elements for stage in stages)
        self._launch(
            sum_weight_gradients, (triton.cdiv(largest, SUM_BLOCK), len(stages)),
            tuple(stage.partials for stage in stages), tuple(destinations),
            integers(tuple(rows), out.device), out, BLOCK=SUM_BLOCK, num_warps=4,
        )  # fmt: skip

    def _packed(
        self,
        parameters: Sequence[Tensor],
        convolutions: Sequence[Convolution],
        width: int,
        norms: Sequence[Norm] = (),
    ) -> PackedParameters | None:
        """The parameters of a stage in the layout of the kernels; None if there are none."""
        if isinstance(parameters, PackedParameters) and parameters.width == width:
            return parameters
        if not convolutions and all(norm.gamma is None for norm in norms):
            return None
        return PackedParameters(parameters, tuple(convolutions), width, norms)

    def _tables(
        self,
        values: Tensor,
        convolutions: Sequence[Convolution],
        packed: PackedParameters | None,
    ) -> StageTables | None:
        """The tables of a stage; None without convolutions."""
        if not convolutions or packed is None:
            return None
        chosen, width = tuple(convolutions), values.shape[-1]
        offsets = tuple(packed.offsets[c.weights] for c in chosen)
        return stage_tables(chosen, offsets, packed.channels, width, len(values), values.device)

    def _counters(self, parameters: Sequence[Tensor], count: int, device: torch.device) -> Tensor:
        """Counters that are zero, (count,)."""
        if isinstance(parameters, PackedParameters):
            return parameters.counters(count)
        return torch.zeros(count, dtype=torch.int32, device=device)

    def _options(
        self, size: Size, kernel: str, convolutions: Sequence[Convolution]
    ) -> dict[str, Any]:
        """Compile-time arguments of a kernel of a stage; `kernel` is a field of `Tiles`.

        There is one pipeline stage, since Triton's software pipelining does not compile together
        with `tiles.pin` for sm_100.
        """
        tile = getattr(size.tiles, kernel)
        return {
            "KINDS": kinds_of(convolutions), "SHAPES": shapes_of(convolutions),
            "STRIDE": size.stride, "C": size.width, "BLOCK": tile.pixels,
            "BLOCK_K": tile.block_k, "PRECISION": self.precision, "num_warps": tile.warps,
            "num_stages": 1, "maxnreg": tile.registers,
        }  # fmt: skip

    def _groups(
        self, pixels: int, size: Size, kernel: str, waves: int, columns: int, device: torch.device
    ) -> int:
        """`groups_of` for a kernel of a stage; `kernel` is a field of `Tiles`."""
        tile = getattr(size.tiles, kernel)
        return groups_of(pixels, tile, waves, columns, self.processors(device))

    def processors(self, device: torch.device) -> int:
        """Multiprocessors of a GPU; those of an H100 where there is none."""
        return _multiprocessors(device)

    def _launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> Any:
        """Run a kernel on its tensors' device; returns the compiled one."""
        with on_device_of(next(a for a in arguments if isinstance(a, Tensor))):
            return kernel[grid](*arguments, **options)


def counters_of(plan: CellPlan) -> int:
    """Counters of a pass: for each sum of a term, each convolution, and each pair of pools."""
    return sum(len(g.terms) + len(g.first) + len(g.second) + 1 for g in plan.groups)


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context in which kernels run on a tensor's device."""
    device = tensor.device
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda" or not torch.cuda.is_available():
        return MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels."""
    return bool(triton.knobs.runtime.interpret)
