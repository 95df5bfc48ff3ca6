"""Searchable modules inside a supernet: weighted sums of branches, depths and widths.

They take the places of `Choice`, `Build`, `Repeat` and of layers with a `Width` in a copy of the
user's model. The model's own `forward` runs unchanged; the weights come from a `Mixing` that all of
them share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hwnas import kernels
from hwnas.architecture import Mixture
from hwnas.kernels.reference import BATCH_NORM_EPS
from hwnas.nn.decisions import Decision, Width
from hwnas.nn.mixed_op import FusedMixture
from hwnas.nn.narrowing import narrow, widest_sum, widths_of
from hwnas.nn.searchable import Alternatives, Options, Repeat, Searchable


class Mixing:
    """The mixture that a supernet computes at the moment.

    Attributes:
        mixture: of the whole space; set before each forward pass.
    """

    mixture: Mixture

    def of(self, options: Options) -> Tensor | None:
        """The product of the weights of some options; None if one need not be computed."""
        if not all(self.is_active(row, option) for row, option in options):
            return None
        return torch.stack([self.mixture.weights[pair] for pair in options]).prod()

    def is_active(self, row: int, option: int) -> bool:
        """Whether an option has to be computed."""
        active = self.mixture.active_options(row)
        return active is None or option in active


@dataclass
class _Normed:
    """A branch that ends in a batch norm, or the identity, if `before` and `norm` are None.

    Attributes:
        before: computes the input of the last batch norm.
        norm: the last batch norm.
        residual: whether the branch's input is added to the result.
    """

    before: fx.GraphModule | None
    norm: nn.BatchNorm2d | None
    residual: bool


class MixedBranches(FusedMixture, Searchable):
    """The weighted sum of the branches of a `Choice` or `Build`; only active ones are computed.

    Where branches end in a batch norm, `hwnas.kernels.weighted_norms` computes these batch norms
    and their weighted sum. Unless `recompute` is "nothing", the activations before them are
    recomputed in the backward pass.

    Args:
        choice: what it replaces; its branches are used, not copied.
        mixing: has the weights.
    """

    def __init__(self, choice: Alternatives, mixing: Mixing) -> None:
        super().__init__()
        self.rows = choice.rows
        self.branches = choice.branches
        self.combinations = choice.combinations
        self.mixing = mixing
        self.options = [tuple(zip(self.rows, c, strict=True)) for c in self.combinations]
        self.normed = [_normed(branch) for branch in choice.branches]
        norms = [end.norm for end in self.normed if end is not None and end.norm is not None]
        if len(norms) < 2 or len({norm.momentum for norm in norms}) > 1:
            self.normed = [None] * len(self.branches)

    def taken(self, chosen: Sequence[int]) -> nn.Module:
        return self.branches[self.combinations.index(tuple(chosen[row] for row in self.rows))]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The weighted sum of the branches' outputs, which have the same shape."""
        weights = {k: w for k, o in enumerate(self.options) if (w := self.mixing.of(o)) is not None}
        is_map = args[0].dim() == 4
        fused = {k: end for k in weights if is_map and (end := self.normed[k]) is not None}
        terms = []
        for k, weight in weights.items():
            if k not in fused:
                y = self.branches[k](*args, **kwargs)
                terms.append(weight.to(y.dtype) * y)
        if fused:
            terms += self._normed_sum(args[0], weights, fused)
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum(dim=0)

    def _normed_sum(
        self, x: Tensor, weights: Mapping[int, Tensor], fused: Mapping[int, _Normed]
    ) -> list[Tensor]:
        """The weighted sums of the batch norms, and of what passes them by, where there are any."""
        terms: list[Tensor] = []
        norms = {k: branch.norm for k, branch in fused.items() if branch.norm is not None}
        if norms:
            befores = [fused[k].before for k in norms]
            scales, shifts = (
                [_tensor(getattr(norm, name)) for norm in norms.values()]
                for name in ("weight", "bias")
            )
            y = kernels.weighted_norms(
                [self.before_norm(b, b, x) for b in befores if b is not None],
                torch.stack([weights[k] for k in norms]),
                [_tensor(norm.running_mean) for norm in norms.values()],
                [_tensor(norm.running_var) for norm in norms.values()],
                scales,
                shifts,
                training=self.training,
                momentum=next(iter(norms.values())).momentum or 0.0,
                impl=self.impl,
            )
            # The operator returns channels_last, in which not every model runs.
            terms.append(y.contiguous() if x.is_contiguous() else y)
        residual = [weights[k] for k, branch in fused.items() if branch.residual]
        if residual:
            terms.append(torch.stack(residual).sum().to(x.dtype) * x)
        return terms


def _tensor(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _normed(branch: nn.Module) -> _Normed | None:
    """How a branch ends, if it is the identity or ends in a batch norm; else None."""
    if type(branch) is nn.Identity:
        return _Normed(None, None, residual=True)
    if any(isinstance(module, Searchable) for module in branch.modules()):
        return None
    graphs = [_traced(branch, training) for training in (False, True)]
    if graphs[0] is None or graphs[1] is None or str(graphs[0]) != str(graphs[1]):
        return None  # it cannot be traced, or trains another network than it evaluates
    graph = graphs[1]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if any(node.op == "get_attr" for node in graph.nodes):
        return None  # the graph would keep a tensor of its own
    (result,) = next(node for node in graph.nodes if node.op == "output").args
    terms = [result]
    if len(inputs) == 1 and isinstance(result, fx.Node) and is_sum(result):
        terms = [term for term in result.args if term is not inputs[0]]
    (norm_node,) = terms if len(terms) == 1 else (None,)
    norm = _deployed_norm(branch, norm_node)
    if len(inputs) != 1 or norm is None or not isinstance(norm_node, fx.Node):
        return None
    if len(norm_node.users) != 1 or not isinstance(norm_node.args[0], fx.Node):
        return None
    before = norm_node.args[0]
    graph.erase_node(next(node for node in graph.nodes if node.op == "output"))
    graph.output(before)
    module = fx.GraphModule(branch, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return _Normed(module, norm, residual=norm_node is not result)


def _traced(branch: nn.Module, training: bool) -> fx.Graph | None:
    """The branch's graph, in which PyTorch's own layers are nodes; None if it has none."""
    before = branch.training
    branch.train(training)
    try:
        return fx.Tracer().trace(branch)
    except Exception:  # tracing runs the user's code, which may raise anything
        return None
    finally:
        branch.train(before)


def is_sum(node: fx.Node) -> bool:
    """Whether a node adds two values."""
    import operator

    added = node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)
    return added and len(node.args) == 2 and not node.kwargs


def _deployed_norm(branch: nn.Module, node: Any) -> nn.BatchNorm2d | None:
    """The batch norm that a node calls, if the fused operator computes the same."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    norm = branch.get_submodule(str(node.target))
    if type(norm) is not nn.BatchNorm2d or isinstance(norm.num_features, Width):
        return None
    usual = norm.affine and norm.track_running_stats and norm.momentum is not None
    return norm if usual and norm.eps == BATCH_NORM_EPS else None


class MixedRepeat(Searchable):
    """The weighted sum of a chain's outputs at each depth.

    Only as many blocks run as the largest active depth has.

    Args:
        repeat: what it replaces; its blocks are used, not copied.
        mixing: has the weights.
    """

    def __init__(self, repeat: Repeat, mixing: Mixing) -> None:
        super().__init__()
        self.rows, self.blocks, self.depths = repeat.rows, repeat.blocks, repeat.depths
        self.mixing = mixing

    def taken(self, chosen: Sequence[int]) -> nn.Module:
        return nn.Sequential(*self.blocks[: self.depths[chosen[self.rows[0]]]])

    def forward(self, x: Tensor) -> Tensor:
        (row,) = self.rows
        active = {
            depth: self.mixing.mixture.weights[row, k].to(x.dtype)
            for k, depth in enumerate(self.depths)
            if self.mixing.is_active(row, k)
        }
        outputs = []
        for depth in range(max(active) + 1):
            if depth in active:
                outputs.append(active[depth] * x)
            if depth < max(active):
                x = self.blocks[depth](x)
        return outputs[0] if len(outputs) == 1 else torch.stack(outputs).sum(dim=0)


OUTPUT_SIZES = (
    "out_channels",
    "out_features",
    "num_features",
    "embedding_dim",
    "num_channels",
    "normalized_shape",
)
"""The attributes of layers that say how many channels their output has."""


class MixedWidth(Searchable):
    """A layer whose channels are a `Width`, at its largest size.

    Each channel of its output is scaled by the sum of the weights of those options that have it
    (Wan et al., "FBNetV2", CVPR 2020, arXiv 2004.05565, section 3.2). With a single option the
    channels that a narrower layer does not have are 0, so that the others are those of that layer.
    Norms over channels are computed once for each option.

    Args:
        layer: what it replaces; it is used, not copied.
        row_of: the row of each decision.
        mixing: has the weights.
    """

    def __init__(self, layer: nn.Module, row_of: Mapping[Decision, int], mixing: Mixing) -> None:
        super().__init__()
        self.has: Tensor
        self.layer, self.mixing = layer, mixing
        found = [width for name, width in widths_of(layer) if name in OUTPUT_SIZES]
        self.width = found[0] if found else None
        if self.width is not None:
            self.row = row_of[self.width.decision]
            has = torch.arange(int(self.width)) < torch.tensor(self.width.values)[:, None]
            self.register_buffer("has", has, persistent=False)

    def taken(self, chosen: Sequence[int]) -> nn.Module:
        return self.layer

    def forward(self, x: Tensor) -> Tensor:
        layer, width = self.layer, self.width
        if width is None:
            y: Tensor = layer(x)
            return y
        weights = self.mixing.mixture.weights[self.row, : len(width.values)]
        if isinstance(layer, nn.LayerNorm | nn.GroupNorm):
            return self._normed(x, weights, width)
        y = layer(x)
        mask = weights.to(y.dtype) @ self.has.to(y.dtype)
        if isinstance(layer, nn.Linear | nn.Embedding):
            return y * mask
        return y * mask.view(-1, *[1] * (y.dim() - 2))

    def _normed(self, x: Tensor, weights: Tensor, width: Width) -> Tensor:
        """The weighted sum of norms over the channels that each option has."""
        options = [k for k in range(len(width.values)) if self.mixing.is_active(self.row, k)]
        last = isinstance(self.layer, nn.LayerNorm)
        channels_last = x if last else x.transpose(1, -1)

        def normed(index: int) -> Tensor:
            k = options[index]
            smaller = _narrowed_view(self.layer, lambda w: w.values[k])
            part = channels_last[..., : width.values[k]]
            y: Tensor = smaller(part) if last else smaller(part.transpose(1, -1)).transpose(1, -1)
            return y

        sizes = tuple(width.values[k] for k in options)
        of_options = torch.stack([weights[k] for k in options])
        y = widest_sum(normed, of_options.to(x.dtype), sizes)
        y = nn.functional.pad(y, (0, int(width) - y.shape[-1]))
        return y if last else y.transpose(1, -1)


def _narrowed_view(layer: nn.Module, size: Callable[[Width], int]) -> nn.Module:
    """A smaller layer whose weights are views of the layer's, so that gradients reach them."""
    import copy

    smaller = copy.copy(layer)
    smaller._parameters = {}
    narrow(smaller, size)
    width = next(width for name, width in widths_of(layer) if name in OUTPUT_SIZES)
    smaller._parameters = {
        name: None if p is None else p[: size(width)]  # type: ignore[misc]
        for name, p in layer._parameters.items()
    }
    return smaller


def mixed(module: nn.Module, row_of: Mapping[Decision, int], mixing: Mixing) -> nn.Module:
    """Replace the searchable modules in a model, in place.

    Args:
        module: a copy of the user's model.
        row_of: the row of each width's decision.
        mixing: will have the weights.

    Returns:
        The model, or what replaces it if it is searchable itself.
    """
    replaced: dict[int, nn.Module] = {}

    def visit(node: nn.Module) -> nn.Module:
        if id(node) not in replaced:
            replaced[id(node)] = node
            for name, child in node._modules.items():
                if child is not None:
                    node._modules[name] = visit(child)
            replaced[id(node)] = _replacement(node, row_of, mixing)
        return replaced[id(node)]

    return visit(module)


def _replacement(node: nn.Module, row_of: Mapping[Decision, int], mixing: Mixing) -> nn.Module:
    if isinstance(node, Alternatives):
        return MixedBranches(node, mixing)
    if isinstance(node, Repeat):
        return MixedRepeat(node, mixing)
    has_weights = any(True for _ in node.parameters(recurse=False)) or isinstance(node, _BatchNorm)
    if has_weights and any(True for _ in widths_of(node)):
        return MixedWidth(node, row_of, mixing)
    return node
