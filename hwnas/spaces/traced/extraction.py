"""The network of one architecture, taken out of a model with choices."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from hwnas.nn.decisions import Decision
from hwnas.nn.narrowing import narrow
from hwnas.nn.searchable import Searchable

Extracted = tuple[nn.Module, dict[str, tuple[int, ...]]]
"""A network, and the rows of the choices that led to each of its submodules, by path."""


def extract(model: nn.Module, chosen: Sequence[int], row_of: Mapping[Decision, int]) -> Extracted:
    """Copy what an architecture uses of a model, with ordinary modules in place of its choices.

    Args:
        model: a model with searchable modules, or a supernet made of one; it is not changed.
        chosen: the index of the option of every choice, by row.
        row_of: the row of each width's decision.

    Returns:
        The network, with the first channels of the model's weights where fewer were chosen; and
        what its submodules come from.
    """
    memo: dict[int, object] = {}
    kept: list[nn.Module] = []
    rows_of: dict[int, tuple[int, ...]] = {}

    def resolve(module: nn.Module) -> None:
        """Copy what is taken in a module's choices before the module itself is copied."""
        for child in module.children():
            if id(child) in memo:
                continue
            target: nn.Module = child
            rows: tuple[int, ...] = ()
            while isinstance(target, Searchable):
                rows += target.rows
                target = target.taken(chosen)
            resolve(target)
            if target is not child:
                # The memo refers to objects by their id, so they have to live on.
                kept.append(target)
                memo[id(child)] = copied = copy.deepcopy(target, memo)
                rows_of[id(copied)] = rows + rows_of.get(id(copied), ())

    root = nn.ModuleList([model])
    resolve(root)
    network = copy.deepcopy(root, memo)[0]
    narrow(network, lambda width: width.values[chosen[row_of[width.decision]]])
    paths = {
        path: rows_of[id(module)]
        for path, module in network.named_modules()
        if rows_of.get(id(module))
    }
    return network, paths
