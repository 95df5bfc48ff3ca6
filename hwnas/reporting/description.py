"""Search spaces and architectures as documents: choices, sizes, parameters and operations.

`hwnas spaces` and `hwnas info` print these documents.
"""

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
from hwnas.data.inputs import InputShape, named_inputs
from hwnas.errors import InputError
from hwnas.spaces import SPACES, SearchSpace, build_space
from hwnas.spaces.networks import Network


def listed_spaces() -> Iterator[tuple[str, SearchSpace]]:
    """The name and the search space of every variant of every registered search space."""
    for name, kind in SPACES.items():
        for variant, options in kind.variants.items():
            yield f"{name} {variant}".rstrip(), build_space(name, options)


def describe_space(space: SearchSpace) -> dict[str, Any]:
    """The paper, sizes and choices of a search space, and the range of its networks' costs.

    Returns:
        A JSON document. `choice_groups` lists each distinct set of options with the number of
        choices that have it, `size` is the number of architectures, and `params` and `macs` (of one
        sample) are the minimum and the maximum over all networks.
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
    """Load a search space from a TOML file; sizes that the file leaves out have their defaults.

    Raises:
        InputError: when the file is missing, malformed, or does not describe a search space.
    """
    options = read_space_file(path)
    return build_space(options.pop("name"), options, f"{path}: space")


def sample_architectures(space: SearchSpace, count: int, seed: int) -> list[dict[str, Any]]:
    """Draw architectures uniformly at random, with replacement.

    Returns:
        The documents of architecture files, each with genotype, parameters and operations.
    """
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
    """Load an architecture and its search space from a file.

    The space has its default sizes if the file states none.

    Raises:
        InputError: when the file is missing or malformed, or the architecture does not belong to
            the space.
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
    """The sizes, genotype and depth of an architecture, and its costs in total and by choice.

    Returns:
        A JSON document. The costs of a choice are summed over all cells that contain its operator;
        `runs` is false where the deployed network leaves the operator out; `fixed` holds the costs
        of the parts that do not depend on a choice.
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
        "depth": depth(network, sizes.reads),
        "fixed": dict(zip(("params", "macs"), fixed.tolist(), strict=True)),
        "choices": choices,
    }


def depth(network: Network, shape: InputShape) -> int:
    """Count the convolutional, linear and recurrent layers on the longest path through a network.

    Args:
        network: a network whose parameters are on the meta device, so that nothing is computed.
        shape: shape of a sample, (C, H, W) or (L,) for tokens; or several inputs.
    """
    inputs = tuple(
        torch.zeros(1, *one.shape, dtype=getattr(torch, one.dtype), device="meta")
        for one in named_inputs(shape, "")
    )
    depths = _Depths()
    with torch.no_grad(), depths:
        return depths.of(network.eval()(inputs if len(inputs) > 1 else inputs[0]))


class _Depths(TorchFunctionMode):
    """Records for every computed tensor the number of layers on the longest path to it."""

    LAYERS = (torch.nn.functional.conv2d, torch.nn.functional.linear, torch.lstm, torch.gru)

    def of(self, tensor: Tensor) -> int:
        """The number of layers on the longest path from the input to a tensor."""
        depth: int = getattr(tensor, "depth", 0)
        return depth

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [self.of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                leaf.depth = max(read, default=0) + (func in self.LAYERS)  # type: ignore[attr-defined]
        return result
