"""The speed reference: a fixed small network whose time tells a slow machine from a slow network.

It is timed in the same rounds as every operator and network. Where it takes longer than when the
latency table was measured, other work slows the machine down, and a network that is over its budget
by no more than that is not judged. It has the operators of small image networks and a working set
of about a megabyte, as they have, so that it shares the caches with other programs in their way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hwnas.latency_tables.runtimes import OnnxModelRuntime, Runtime

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hwnas.latency_tables.measuring.onnx_context import ContextGraph

NAME = "speed-reference-1"
"""Times are compared only under the same name: another network needs another one."""
INPUT_SHAPE = (1, 3, 32, 32)
CLASSES = 10


@dataclass(frozen=True)
class _Layer:
    """A convolution with padding, followed by ReLU."""

    c_in: int
    c_out: int
    kernel: int
    stride: int = 1
    groups: int = 1


LAYERS = (
    _Layer(3, 32, 3),
    _Layer(32, 96, 1),
    _Layer(96, 96, 3, stride=2, groups=96),
    _Layer(96, 64, 1),
    _Layer(64, 128, 3, stride=2),
)


def prepare_reference(runtime: Runtime) -> Callable[[], None] | None:
    """Return a function that runs the reference once, in a session of its own.

    Returns:
        The function; None for runtimes that compile modules, where it would take longer to compile
        the reference than to measure.
    """
    if isinstance(runtime, OnnxModelRuntime):
        graph = reference_graph()
        return runtime.prepare_onnx(graph.model, graph.feeds)
    if compiles_modules(runtime):
        return None
    import torch

    inputs = torch.from_numpy(_inputs())
    return runtime.prepare(_module(), (inputs,), _no_export)


def compiles_modules(runtime: Runtime) -> bool:
    """Whether preparing a network takes so long that it is done once, not for each session."""
    return runtime.fuses and not isinstance(runtime, OnnxModelRuntime)


def reference_graph() -> ContextGraph:
    """Return the reference as an ONNX model with its input."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from hwnas.latency_tables.measuring.onnx_context import ContextGraph

    nodes, stored, value = [], [], "x"
    for index, (layer, (weight, bias)) in enumerate(zip(LAYERS, _weights(), strict=False)):
        names = [f"weight{index}", f"bias{index}"]
        stored += [
            numpy_helper.from_array(weight, names[0]),
            numpy_helper.from_array(bias, names[1]),
        ]
        nodes += [
            helper.make_node(
                "Conv",
                [value, *names],
                [f"conv{index}"],
                kernel_shape=[layer.kernel, layer.kernel],
                pads=[layer.kernel // 2] * 4,
                strides=[layer.stride, layer.stride],
                group=layer.groups,
            ),
            helper.make_node("Relu", [f"conv{index}"], [f"relu{index}"]),
        ]
        value = f"relu{index}"
    weight, bias = _weights()[-1]
    stored += [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, INPUT_SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, CLASSES))],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return ContextGraph(bytes(model.SerializeToString()), {"x": _inputs()})


def _weights() -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias of every layer; the last is the classifier (CLASSES, channels)."""
    rng = np.random.default_rng(0)
    shapes: list[tuple[int, ...]] = [
        (layer.c_out, layer.c_in // layer.groups, layer.kernel, layer.kernel) for layer in LAYERS
    ]
    shapes.append((CLASSES, LAYERS[-1].c_out))
    return [
        (
            rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[1:]))),
            rng.standard_normal(shape[0], np.float32),
        )
        for shape in shapes
    ]


def _inputs() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(INPUT_SHAPE, np.float32)


def _module() -> nn.Module:
    """The same network in PyTorch."""
    import torch
    from torch import nn

    modules: list[nn.Module] = []
    for layer in LAYERS:
        size, padding = layer.kernel, layer.kernel // 2
        modules += [
            nn.Conv2d(layer.c_in, layer.c_out, size, layer.stride, padding, groups=layer.groups),
            nn.ReLU(),
        ]
    modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(LAYERS[-1].c_out, CLASSES)]
    network = nn.Sequential(*modules).eval().requires_grad_(False)
    weighted = [module for module in modules if isinstance(module, nn.Conv2d | nn.Linear)]
    for module, (weight, bias) in zip(weighted, _weights(), strict=True):
        given = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
        module.load_state_dict(given)
    return network


def _no_export(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> bytes:
    raise AssertionError("a runtime of modules exported one")
