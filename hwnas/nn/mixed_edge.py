"""The candidate operators of one edge of a cell, whose tensors are parts of a few vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hwnas import kernels
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build_candidate


class MixedOp(nn.Module):
    """The candidate operators of one edge of a cell; `MixedCell` runs them.

    All weights of a candidate are one parameter and the buffers of all candidates are one buffer,
    since what a search step costs Python grows with their number. The state dict has them under the
    names of the candidates' own modules; buffers of whole numbers, as batch norms' counters, are
    left out. To load one always copies, with `assign=True` too.

    Args:
        specs: one operator for each option, in the order of the options.
        normalise_pools: whether pools are followed by a batch norm.
        partial: only 1 of this many channels passes through the candidates.

    Attributes:
        layouts: for each candidate where its tensors lie, by its name, which is also the name of
            the parameter with its weights.
        statistics: (B,), the running statistics and other buffers; None if there are none.
    """

    statistics: Tensor | None

    def __init__(self, specs: Sequence[OpSpec], *, normalise_pools: bool, partial: int = 1) -> None:
        super().__init__()
        self.specs = list(specs)
        self.normalise_pools = normalise_pools
        self.stride = specs[0].stride
        self.partial = partial
        self.layouts: dict[str, kernels.FlatLayout] = {}
        vectors: list[Tensor] = []
        for spec in specs:
            narrow = replace(spec, c_in=spec.c_in // partial, c_out=spec.c_out // partial)
            module = build_candidate(narrow, normalise_pools=normalise_pools)
            tensors = {n: t for n, t in named_tensors(module) if t.is_floating_point()}
            weights = {n: t for n, t in tensors.items() if isinstance(t, nn.Parameter)}
            self.layouts[spec.name] = layout = kernels.FlatLayout(
                {name: weight.shape for name, weight in weights.items()},
                {name: tensor.shape for name, tensor in tensors.items() if name not in weights},
                first_buffer=sum(map(len, vectors)),
            )
            vector = nn.Parameter(layout.parameters.joined(weights)) if weights else None
            self.register_parameter(spec.name, vector)
            vectors += [layout.buffers.joined(tensors)] if layout.buffers else []
        self.register_buffer("statistics", torch.cat(vectors) if vectors else None)

    def kernel_candidates(self) -> list[kernels.Candidate]:
        """The candidates in the form that `hwnas.kernels` takes."""
        return [
            kernels.Candidate(
                name, kernels.FlatTensors(layout, getattr(self, name), self.statistics)
            )
            for name, layout in self.layouts.items()
        ]

    def extra_repr(self) -> str:
        return ", ".join(self.layouts)

    def _entries(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the state dict by name."""
        for candidate in self.kernel_candidates():
            for name, tensor in candidate.views().items():
                yield f"candidates.{candidate.name}.{name}", tensor

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        for name, tensor in self._entries():
            destination[prefix + name] = tensor if keep_vars else tensor.detach()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        known = set()
        for name, own in self._entries():
            known.add(key := prefix + name)
            if key not in state_dict:
                missing_keys.append(key)
            elif state_dict[key].shape != own.shape:
                error_msgs.append(
                    f"size mismatch for {key}: expected {tuple(own.shape)}, got "
                    f"{tuple(state_dict[key].shape)}"
                )
            elif own.is_meta:
                error_msgs.append(f"{key} has no memory: call to_empty() of the module first")
            else:
                own.detach().copy_(state_dict[key])
        unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k not in known]


def named_tensors(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name; `named_parameters` would take longer than a small cell."""
    for table in (module._parameters, module._buffers):
        for name, tensor in table.items():
            if tensor is not None:
                yield prefix + name, tensor
    for name, child in module._modules.items():
        if child is not None:
            yield from named_tensors(child, f"{prefix}{name}.")
