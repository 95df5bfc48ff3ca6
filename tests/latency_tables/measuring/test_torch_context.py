"""Operators in a context like that of a network, for runtimes that compile modules."""

import pytest
import torch
from helpers.profiled import Add, profiled
from torch import nn

from hwnas.latency_tables.measuring.operator_calls import COPIES
from hwnas.latency_tables.measuring.torch_context import Context
from hwnas.latency_tables.runtimes import TorchCpu
from hwnas.latency_tables.table import OpSpec

STEM = OpSpec("stem", 3, 8, 12, 12)
SKIP = OpSpec("skip_connect", 8, 8, 12, 12)
CONV = OpSpec("conv_3x3", 8, 8, 12, 12)
ADD = OpSpec("add", 8, 8, 12, 12)
COSTS_MS = {nn.Conv2d: 0.5, nn.ReLU: 0.0625, nn.Bilinear: 0.125}


class CountingCompiler(TorchCpu):
    """Every call takes 1 ms, plus a fixed time for each layer, without noise."""

    fuses = True

    def __init__(self):
        super().__init__(threads=1)
        self.modules = []

    def prepare(self, module, inputs, to_onnx):
        with torch.inference_mode():
            module(*inputs)
        self.modules.append(module)
        cost_ms = 1.0 + sum(COSTS_MS.get(type(layer), 0.0) for layer in module.modules())
        return lambda: cost_ms

    def time_block(self, call, calls):
        return call() * calls


def test_an_operator_has_the_time_of_its_layers_and_a_source_also_that_of_the_call():
    runtime = CountingCompiler()
    table = profiled([STEM, SKIP, CONV, ADD], runtime, None, batch=2)
    costs = {spec: table.latency_ms(spec) for spec in table.specs()}
    assert costs == pytest.approx({STEM: 1.5, SKIP: 0.0, CONV: 0.5625, ADD: 0.125})
    # Operators with the same input shape share a baseline.
    assert len(runtime.modules) == 4 + 2


@pytest.mark.parametrize("operator", [nn.Conv2d(4, 6, 3, 2, 1), Add()], ids=["conv", "add"])
def test_a_context_computes_context_then_operator(operator):
    generator = torch.Generator().manual_seed(0)
    count = 2 if isinstance(operator, Add) else 1
    inputs = tuple(torch.randn(2, 4, 5, 5, generator=generator) for _ in range(count))
    for is_baseline in (False, True):
        context = Context(None if is_baseline else operator, inputs, copies=COPIES, seed=0)
        tensors = context.copies_of(inputs)
        assert len({tensor.data_ptr() for tensor in tensors}) == COPIES * count
        with torch.inference_mode():
            outputs = iter(context(*tensors))
            for copy in range(COPIES):
                convolutions = [context.contexts[copy * count + i][0] for i in range(count)]
                maps = [conv(x).relu() for conv, x in zip(convolutions, inputs, strict=True)]
                expected = [maps[0] if is_baseline else operator(*maps), *maps[1:]]
                for found in expected:
                    torch.testing.assert_close(next(outputs), found)
        assert next(outputs, None) is None


def test_copies_have_different_weights():
    """A compiler could merge equal copies."""
    operator = nn.Conv2d(4, 4, 3)
    context = Context(operator, (torch.zeros(1, 4, 5, 5),), copies=2, seed=0)
    first, second = context.contexts
    assert not torch.equal(first[0].weight, second[0].weight)
    assert context.operators[0].weight.data_ptr() != context.operators[1].weight.data_ptr()
