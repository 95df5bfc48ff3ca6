"""Bounds on a network's Lipschitz constant: how far outputs can move for a change of the input.

The upper bound multiplies the exact norms of the linear maps between activations along the graph of
the network (Szegedy et al., "Intriguing Properties of Neural Networks", ICLR 2014, arXiv 1312.6199,
section 4.3, with the norms of whole convolutions of Sedghi et al., ICLR 2019). The lower bound is
the largest norm of the Jacobian at samples of the data (Scaman & Virmaux, "Lipschitz Regularity of
Deep Neural Networks", NeurIPS 2018, arXiv 1805.10965). The truth is in between; the gap is usually
orders of magnitude, because the worst directions of the layers do not line up.

Both are in units of logits for each unit of a normalised input, in the Euclidean norm.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from hwnas.diagnosis.spectral import operator_norm, pool_norm

SLOPES: dict[type[nn.Module], float] = {
    nn.ReLU: 1.0,
    nn.ReLU6: 1.0,
    nn.LeakyReLU: 1.0,
    nn.Tanh: 1.0,
    nn.Sigmoid: 0.25,
    nn.Hardtanh: 1.0,
    nn.Hardsigmoid: 1 / 6,
    nn.Hardswish: 1.5,
    nn.SiLU: 1.09985,
    nn.GELU: 1.12904,
}
"""Largest absolute slopes of elementwise functions, rounded up."""
FUNCTIONS = {
    torch.relu: 1.0,
    nn.functional.relu: 1.0,
    torch.tanh: 1.0,
    torch.sigmoid: 0.25,
}
LINEAR_MODULES = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Identity,
    nn.Flatten,
    nn.Dropout,
)
AFFINE_FUNCTIONS = (
    torch.flatten,
    torch.mean,
    nn.functional.pad,
    nn.functional.linear,
    nn.functional.conv2d,
    nn.functional.avg_pool2d,
    nn.functional.adaptive_avg_pool2d,
    operator.getitem,
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
)
"""Affine in one activation, if every other argument is a constant."""
SUMS = (operator.add, operator.iadd, operator.sub, torch.add)
AFFINE_METHODS = ("flatten", "mean", "view", "reshape", "contiguous", "permute", "transpose")
POWER_STEPS = 12
"""Iterations for the norm of a Jacobian; every one gives a valid lower bound."""


class UnboundedError(Exception):
    """An operator of a network has no finite Lipschitz constant, or none that is known here."""


@dataclass(frozen=True)
class LipschitzBounds:
    """Bounds on the Lipschitz constant.

    Attributes:
        lower: the largest norm of the Jacobian at the samples.
        median: the median of these norms, the sensitivity at a usual sample.
        upper: the product along the graph; None if an operator has no finite bound.
        unbounded: why there is no upper bound; empty if there is one.
        norms: the largest singular value of each linear map, by the names of its layers.
    """

    lower: float
    median: float
    upper: float | None
    unbounded: str
    norms: dict[str, float]


def lipschitz_bounds(network: fx.GraphModule, inputs: Tensor) -> LipschitzBounds:
    """Return both bounds.

    Args:
        network: traced, in eval mode.
        inputs: normalised samples (M, C, H, W); the lower bound improves with their number.
    """
    norms = jacobian_norms(network, inputs)
    upper, reason, layers = None, "", dict[str, float]()
    try:
        upper, layers = upper_bound(network, tuple(inputs.shape[1:]))
    except UnboundedError as error:
        reason = str(error)
    return LipschitzBounds(float(norms.max()), float(norms.median()), upper, reason, layers)


def jacobian_norms(network: nn.Module, inputs: Tensor, steps: int = POWER_STEPS) -> Tensor:
    """Return the largest singular value of the Jacobian at each sample, from below.

    Power iteration on J J^T, all samples at once; a step costs two backward passes, one of them
    through the other (the Jacobian-vector product as the derivative of the vector-Jacobian
    product).

    Args:
        network: maps inputs to outputs sample by sample, such as a network in eval mode.
        inputs: (M, ...).
        steps: iterations.

    Returns:
        (M,).
    """
    x = inputs.detach().requires_grad_()
    outputs = network(x).flatten(1)
    cotangent = torch.zeros_like(outputs, requires_grad=True)
    (pulled,) = torch.autograd.grad(outputs, x, cotangent, create_graph=True)
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    best = torch.zeros(len(x), dtype=outputs.dtype)
    for _ in range(steps):
        u = u / u.norm(dim=1, keepdim=True).clamp_min(1e-30)
        (gradient,) = torch.autograd.grad(outputs, x, u, retain_graph=True)
        best = torch.maximum(best, gradient.flatten(1).norm(dim=1))
        (u,) = torch.autograd.grad(pulled, cotangent, gradient, retain_graph=True)
    return best.detach()


def upper_bound(
    network: fx.GraphModule, input_shape: tuple[int, ...]
) -> tuple[float, dict[str, float]]:
    """Return the upper bound, and the norm of each linear map between activations.

    Linear maps that follow each other, such as a depthwise and a pointwise convolution and a batch
    norm, are one map with one norm, which is tighter than a product. Branches that are added count
    with their sum, branches that are concatenated with the root of their squares' sum.

    Args:
        network: traced down to the modules and functions of PyTorch, in eval mode.
        input_shape: of one sample.

    Raises:
        UnboundedError: for a product of two activations, such as an attention or a gate, or an
            operator that is not known.
    """
    propagation = _Propagation(network)
    return propagation.bound(input_shape), propagation.norms


@dataclass(frozen=True)
class _Value:
    """What is known of the value of a node.

    Attributes:
        source: the node that the affine map begins with: the input, or one behind an activation.
        bound: Lipschitz constant of the source with respect to the network's input.
        affine: the affine map from the source to the value; None for the source itself.
        layers: names of the layers in the map.
    """

    source: fx.Node
    bound: float
    affine: Callable[[Tensor], Tensor] | None = None
    layers: tuple[str, ...] = ()


class _Propagation(fx.Interpreter):
    """One walk along the graph of a network, in float64, with a sample of zeros.

    Nodes that do not depend on the values of the input, such as its shape, are constants.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(copy.deepcopy(network).double().eval())
        self.values: dict[fx.Node, _Value] = {}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.norms: dict[str, float] = {}
        self._known: dict[fx.Node, float] = {}

    def bound(self, input_shape: tuple[int, ...]) -> float:
        """Return the upper bound for inputs of a shape, without the batch."""
        with torch.no_grad():
            self.run(torch.zeros((1, *input_shape), dtype=torch.float64))
        (output,) = (node for node in self.graph.nodes if node.op == "output")
        (result,) = output.args
        return self._closed(result)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if not isinstance(result, Tensor) or n.op in ("output", "get_attr"):
            return result
        self.shapes[n] = tuple(result.shape)
        inputs = [node for node in n.all_input_nodes if node in self.values]
        if n.op == "placeholder":
            self.values[n] = _Value(n, 1.0)
        elif inputs:
            self.values[n] = self._value_of(n, inputs)
        return result

    def _value_of(self, node: fx.Node, inputs: list[fx.Node]) -> _Value:
        if node.op == "call_module":
            return self._module(node, inputs[0])
        if node.op == "call_function" and node.target in FUNCTIONS:
            return _Value(node, FUNCTIONS[node.target] * self._closed(inputs[0]))
        if node.target in SUMS and len(inputs) == 2:
            return _Value(node, sum(self._closed(n) for n in inputs))
        if node.target is torch.cat:
            return _Value(node, math.hypot(*(self._closed(n) for n in inputs)))
        is_affine = node.target in AFFINE_FUNCTIONS or node.target in AFFINE_METHODS
        divides = node.target is operator.truediv and node.args[0] is not inputs[0]
        if not is_affine or len(inputs) > 1 or divides:
            name = getattr(node.target, "__name__", node.target)
            raise UnboundedError(f"`{name}` has no Lipschitz constant that holds for all inputs")
        return self._then(inputs[0], self._call(node, inputs[0]))

    def _module(self, node: fx.Node, given: fx.Node) -> _Value:
        module = self.fetch_attr(str(node.target))
        slope = SLOPES.get(type(module))
        if isinstance(module, nn.MaxPool2d):
            slope = pool_norm(_pair(module.kernel_size), _pair(module.stride))
        if slope is not None:
            return _Value(node, slope * self._closed(given))
        if isinstance(module, LINEAR_MODULES):
            return self._then(given, module, str(node.target))
        kind = type(module).__name__
        raise UnboundedError(f"`{kind}` has no Lipschitz constant that holds for all inputs")

    def _then(
        self, given: fx.Node, function: Callable[[Tensor], Tensor], layer: str = ""
    ) -> _Value:
        """The value behind a further affine map."""
        value = self.values[given]
        before = value.affine
        layers = (*value.layers, layer) if layer else value.layers
        if before is None:
            return _Value(value.source, value.bound, function, layers)
        return _Value(value.source, value.bound, lambda x: function(before(x)), layers)

    def _call(self, node: fx.Node, given: fx.Node) -> Callable[[Tensor], Tensor]:
        """The function or method of a node as a function of its one activation."""
        constants = {n: self.env.get(n) for n in node.all_input_nodes}

        def call(x: Tensor) -> Tensor:
            def place(argument: fx.Node) -> Any:
                return x if argument is given else constants[argument]

            args, kwargs = fx.map_arg(node.args, place), fx.map_arg(node.kwargs, place)
            if node.op == "call_method":
                result: Tensor = getattr(args[0], str(node.target))(*args[1:], **kwargs)
                return result
            assert callable(node.target)
            result = node.target(*args, **kwargs)
            return result

        return call

    def _closed(self, node: fx.Node) -> float:
        """The bound of a value: that of its source times the norm of the affine map."""
        value = self.values[node]
        if value.affine is None:
            return value.bound
        if node not in self._known:
            with torch.enable_grad():
                norm = operator_norm(value.affine, self.shapes[value.source])
            self._known[node] = value.bound * norm
            if value.layers:
                self.norms[", ".join(value.layers)] = norm
        return self._known[node]


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
