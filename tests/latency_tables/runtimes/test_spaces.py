"""Networks and operators of every space, with every head and kind of input, on every runtime.

Runtimes that this machine does not have are skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.profiled import QUICK
from helpers.tiny import tiny_space

from hwnas.deploy.export import INPUT, OUTPUT, export_network, to_onnx
from hwnas.deploy.fold import fold_batch_norms
from hwnas.errors import RuntimeMissingError
from hwnas.latency_tables.measuring.profiler import profile_operators
from hwnas.latency_tables.runtimes import RUNTIMES, OnnxModelRuntime, Runtime, create_runtime
from hwnas.latency_tables.runtimes.torch_modes import MODES
from hwnas.ops import definitions
from hwnas.pipeline.profile import example_feeds, operator_module
from hwnas.spaces import SPACES
from hwnas.spaces.networks import Network

TOKENS = {"vocabulary": 11, "height": 1}
DIVISIBLE = {"height": 32, "width": 32}
"""Sizes that the upsampling head supports."""
COMPILED = ("compile", "aoti")
"""Modes of PyTorch that call a C++ compiler for every network."""


def kinds_of_networks() -> list[Any]:
    """Space and options: of images with each head of the space, and of tokens."""
    kinds = []
    for name, space in sorted(SPACES.items()):
        for head in space.heads:
            sizes = DIVISIBLE if head == "upsampled" else {}
            is_padded = head == "positions"  # for texts with padding alone
            if not is_padded:
                kinds.append(pytest.param(name, {"head": head, **sizes}, id=f"{name}-{head}"))
            if space.reads_tokens:
                options = {"head": head, **TOKENS, **({"padding": True} if is_padded else {})}
                kinds.append(pytest.param(name, options, id=f"{name}-{head}-tokens"))
    return kinds


def runtimes_here(compiled: bool) -> list[Runtime]:
    """The CPU runtimes of this machine: those that compile networks, or the others."""
    here = []
    for name in RUNTIMES:
        runtime = create_runtime(name, 1)
        if runtime.device_class == "gpu" or any(mode in name for mode in COMPILED) != compiled:
            continue
        try:
            runtime.require()
        except RuntimeMissingError:
            continue
        here.append(runtime)
    assert here
    return here


def outputs_on(runtime: Runtime, network: Network, model: bytes, inputs: np.ndarray) -> np.ndarray:
    """The outputs of a network on a runtime."""
    if isinstance(runtime, OnnxModelRuntime):
        return runtime.infer(model)({INPUT: inputs})[OUTPUT]
    given = (torch.from_numpy(inputs),)
    with torch.inference_mode():
        return MODES[runtime.mode](fold_batch_norms(network), given, 1)(*given).numpy()


def assert_right_everywhere(name: str, options: dict[str, Any], runtimes: list[Runtime]) -> None:
    torch.manual_seed(0)
    space = tiny_space(name, **options)
    network = space.network(space.sample(np.random.default_rng(3))).eval()
    shape = space.options.input_shape
    (inputs,) = example_feeds(2, shape).values()
    model = export_network(network, shape).SerializeToString()
    with torch.inference_mode():
        expected = network(torch.from_numpy(inputs)).numpy()
    for runtime in runtimes:
        found = outputs_on(runtime, network, model, inputs)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=runtime.name)


@pytest.mark.parametrize("name, options", kinds_of_networks())
def test_a_network_is_the_same_on_every_runtime(name: str, options: dict[str, Any]) -> None:
    assert_right_everywhere(name, options, runtimes_here(compiled=False))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name, options", kinds_of_networks())
def test_a_network_is_the_same_when_compiled(name: str, options: dict[str, Any]) -> None:
    assert_right_everywhere(name, options, runtimes_here(compiled=True))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name, options", kinds_of_networks())
def test_every_operator_is_profiled_on_every_runtime(name: str, options: dict[str, Any]) -> None:
    specs = tiny_space(name, **options).all_operators()
    for runtime in runtimes_here(compiled=False):
        table = profile_operators(
            specs,
            runtime=runtime,
            build=operator_module,
            to_onnx=to_onnx,
            batch=1,
            definitions=definitions(specs),
            protocol=QUICK,
        )
        assert table.missing(specs) == [], runtime.name
