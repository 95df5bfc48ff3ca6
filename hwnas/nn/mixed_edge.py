"""The candidate operators of one edge of a cell, with their tensors in few."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hwnas import kernels
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build_candidate

MEAN = ".running_mean"
"""How the name of a batch norm's running mean ends."""


class MixedOp(nn.Module):
    """The candidate operators of one edge of a cell; `MixedCell` runs them.

    All weights of a candidate are one parameter, a vector, and all running statistics one buffer,
    since what a search step costs Python grows with their number. The state dict has them under the
    names of the candidates' own modules.

    Args:
        specs: one operator for each option, in the order of the options.
        normalise_pools: whether pools are followed by a batch norm.
        partial: only 1 of this many channels passes through the candidates.

    Attributes:
        layouts: for each candidate where its tensors lie, by its name, which is also the name of
            the vector of its weights.
        running: (2, norms, channels), running means and variances; None without batch norms.
    """

    running: Tensor | None

    def __init__(self, specs: Sequence[OpSpec], *, normalise_pools: bool, partial: int = 1) -> None:
        super().__init__()
        self.specs = list(specs)
        self.normalise_pools = normalise_pools
        self.stride = specs[0].stride
        self.partial = partial
        self.layouts: dict[str, kernels.FlatLayout] = {}
        means: list[Tensor] = []
        variances: list[Tensor] = []
        for spec in specs:
            narrow = replace(spec, c_in=spec.c_in // partial, c_out=spec.c_out // partial)
            tensors = dict(named_tensors(build_candidate(narrow, normalise_pools=normalise_pools)))
            weights = {n: t for n, t in tensors.items() if isinstance(t, nn.Parameter)}
            norms = [n.removesuffix(MEAN) for n in tensors if n.endswith(MEAN)]
            layout = kernels.FlatLayout(
                {name: weight.shape for name, weight in weights.items()},
                {norm: len(means) + i for i, norm in enumerate(norms)},
            )
            self.layouts[spec.name] = layout
            means += [tensors[f"{norm}.running_mean"] for norm in norms]
            variances += [tensors[f"{norm}.running_var"] for norm in norms]
            vector = nn.Parameter(layout.joined(weights).detach()) if weights else None
            self.register_parameter(spec.name, vector)
        running = torch.stack([torch.stack(means), torch.stack(variances)]) if means else None
        self.register_buffer("running", running)

    def kernel_candidates(self) -> list[kernels.Candidate]:
        """The candidates in the form that `hwnas.kernels` takes."""
        return [
            kernels.Candidate(
                name, kernels.FlatTensors(layout, self._parameters[name], self.running)
            )
            for name, layout in self.layouts.items()
        ]

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each tensor of the candidates, with its name in the state dict."""
        for name, tensors in self.kernel_candidates():
            for tensor_name, tensor in tensors.items():
                yield f"candidates.{name}.{tensor_name}", tensor

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        for name, tensor in self._named_tensors():
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
        for name, own in self._named_tensors():
            known.add(key := prefix + name)
            if key not in state_dict:
                missing_keys.append(key)
            elif state_dict[key].shape != own.shape:
                error_msgs.append(
                    f"size mismatch for {key}: expected {tuple(own.shape)}, got "
                    f"{tuple(state_dict[key].shape)}"
                )
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
