"""Search spaces and architectures in figures: what can be chosen, what was, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from hwnas.architecture import Architecture, read_architecture_file
from hwnas.budget.decode import params_and_macs_ranges
from hwnas.config import read_space_file
from hwnas.errors import InputError
from hwnas.spaces import SPACES, SearchSpace, build_space
from hwnas.spaces.networks import Network


def listed_spaces() -> Iterator[tuple[str, SearchSpace]]:
    """Every registered space, and each of its variants, with a name for it."""
    for name, kind in SPACES.items():
        for variant, options in kind.variants.items():
            yield f"{name} {variant}".rstrip(), build_space(name, options)


def describe_space(space: SearchSpace) -> dict[str, Any]:
    """Paper, sizes, numbers of choices, options and architectures, and what networks cost.

    `choice_groups` holds options and how many choices have these. `params` and `macs` (of one
    image) are the least and the most of all networks.
    """
    params, macs = params_and_macs_ranges(space)
    groups = Counter(choice.options for choice in space.choices)
    return {
        "space": space.name,
        "paper": space.paper,
        "space_options": space.options.model_dump(),
        "choices": len(space.choices),
        "options": sum(len(choice.options) for choice in space.choices),
        "choice_groups": [
            {"choices": n, "options": list(options)} for options, n in groups.items()
        ],
        "heads": list(space.heads),
        "reads_tokens": space.reads_tokens,
        "size": space.size(),
        "params": params,
        "macs": macs,
    }


def load_space(path: Path) -> SearchSpace:
    """The space that a TOML file describes, at its default sizes where the file states none.

    Raises:
        InputError: when the file is missing or malformed, or describes no space.
    """
    options = read_space_file(path)
    return build_space(options.pop("name"), options, f"{path}: space")


def sample_architectures(space: SearchSpace, count: int, seed: int) -> list[dict[str, Any]]:
    """Uniformly random architectures as the documents of their files; they may repeat."""
    rng = np.random.default_rng(seed)
    documents = []
    for architecture in (space.sample(rng) for _ in range(count)):
        params, macs = space.params_and_macs(architecture)
        documents.append(
            {
                **architecture.to_json(),
                "space_options": space.options.model_dump(),
                "genotype": space.to_genotype(architecture),
                "params": params,
                "macs": macs,
            }
        )
    return documents


def load_architecture(path: Path) -> tuple[SearchSpace, Architecture]:
    """The architecture in a file and its space, at the space's default sizes if it states none.

    Raises:
        InputError: when the file is missing or malformed, or the architecture is not of the space.
    """
    document = read_architecture_file(path)
    architecture = Architecture.from_json(document, str(path))
    options = document.get("space_options", {})
    where = f"{path}: space_options"
    if not isinstance(options, dict):
        raise InputError("malformed", where=where, expected="a JSON object")
    space = build_space(architecture.space, options, where)
    try:
        space.validate(architecture)
    except InputError as error:
        raise InputError(str(error), where=str(path)) from None
    return space, architecture


def describe_architecture(space: SearchSpace, architecture: Architecture) -> dict[str, Any]:
    """Sizes, genotype, depth, and what the network costs, as a whole and by choice.

    A choice counts in all cells that it decides on; `runs` is false where the deployed network
    leaves its operator out.
    """
    params, macs = space.params_and_macs(architecture)
    fixed, counts = space.coefficient_params_and_macs[0], space.choice_params_and_macs(architecture)
    runs = space.run_probability(space.one_hot(architecture).weights).sum(dim=1) > 0.5
    choices = []
    rows = zip(architecture, counts.tolist(), runs.tolist(), strict=True)
    for (name, option), (own_params, own_macs), is_run in rows:
        costs = {"params": own_params, "macs": own_macs, "runs": is_run}
        choices.append({"choice": name, "option": option, **costs})
    with torch.device("meta"):
        network = space.network(architecture)
    sizes = space.options
    return {
        "space": space.name,
        "space_options": sizes.model_dump(),
        "genotype": space.to_genotype(architecture),
        "params": params,
        "macs": macs,
        "depth": depth(network, sizes.input_shape),
        "fixed": dict(zip(("params", "macs"), fixed.tolist(), strict=True)),
        "choices": choices,
    }


def depth(network: Network, shape: tuple[int, ...]) -> int:
    """Convolutions, linear and recurrent layers on the longest path from input to output.

    Args:
        network: with its parameters on the meta device; nothing is computed.
        shape: (C, H, W) of a sample, or (L,) of tokens.
    """
    dtype = torch.int64 if len(shape) == 1 else torch.float32
    inputs = torch.zeros(1, *shape, dtype=dtype, device="meta")
    with torch.no_grad(), _Depths() as depths:
        return depths.of(network.eval()(inputs))


class _Depths(TorchFunctionMode):
    """Follows every tensor that is computed back to the input, counting layers."""

    LAYERS = (torch.nn.functional.conv2d, torch.nn.functional.linear, torch.lstm, torch.gru)

    def of(self, tensor: Tensor) -> int:
        """Layers on the longest path to a tensor."""
        return getattr(tensor, "depth", 0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [self.of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                leaf.depth = max(read, default=0) + (func in self.LAYERS)  # type: ignore[attr-defined]
        return result
