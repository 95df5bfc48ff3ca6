"""The contract of every runtime: correct results, a table of operators, or why it is missing.

Runtimes that this machine does not have are skipped with their error message.
"""

import re

import numpy as np
import pytest
import torch
from helpers.profiled import QUICK, profiled
from torch import nn

from hwnas.errors import RuntimeMissingError
from hwnas.latency_tables.runtimes import RUNTIMES, OnnxModelRuntime, create_runtime
from hwnas.latency_tables.runtimes.torch_modes import MODES
from hwnas.latency_tables.table import LatencyTable, OpSpec

# They call a C++ compiler or a converter for every network.
SLOW = [pytest.mark.slow, pytest.mark.timeout(1800)]
NAMES = [
    pytest.param(name, marks=SLOW if re.search("compile|aoti|ncnn", name) else ())
    for name in RUNTIMES
]


class TwoInputs(nn.Module):
    """Inputs of different roles, so that swapped ones are noticed; a pool and a ReLU to fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.other = nn.Conv2d(3, 4, 1)

    def forward(self, a, b):
        return torch.relu(self.pool(self.conv(a)) - 2 * self.other(b))


def missing(runtime):
    """Why this machine does not have a runtime, None if it does."""
    try:
        runtime.require()
    except RuntimeMissingError as error:
        return error
    return None


@pytest.fixture
def runtime(request):
    found = create_runtime(request.param, 1)
    error = missing(found)
    if error is not None:
        pytest.skip(str(error))
    return found


def example(batch=2, side=6):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, 3, side, side, generator=generator) for _ in range(2))


def computed(runtime, module, inputs, to_onnx):
    """The outputs of the program that a runtime's calls run."""
    if isinstance(runtime, OnnxModelRuntime):
        model = to_onnx(module, inputs)
        names = ("a", "b")
        (found,) = runtime.infer(model)(
            {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        ).values()
        return found
    device = "cuda" if runtime.device_class == "gpu" else "cpu"
    inputs = tuple(tensor.to(device) for tensor in inputs)
    with torch.inference_mode():
        return MODES[runtime.mode](module.to(device), inputs, 1)(*inputs).cpu().numpy()


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_missing_runtime_says_in_one_line_how_to_get_it(name):
    error = missing(create_runtime(name, 1))
    if error is None:
        pytest.skip("this machine has the runtime")
    assert str(error).startswith(f"{name}: ")
    assert error.mend
    assert "\n" not in str(error)
    assert error.exit_code == 3


@pytest.mark.parametrize("runtime", RUNTIMES, indirect=True)
def test_a_runtime_describes_itself(runtime):
    profile = runtime.profile(dtype="float32", batch=4, versions={"hwnas": "0.1.0"})
    assert (profile.runtime, profile.batch, profile.threads) == (runtime.name, 4, 1)
    assert profile.device
    library = runtime.name.split("-")[0]
    assert {"python", library, "hwnas"} - {"tensorrt"} <= set(profile.versions)
    # Eager PyTorch and exported programs have no settings but their threads.
    assert bool(profile.options) == runtime.fuses


@pytest.mark.parametrize("runtime", NAMES, indirect=True)
def test_a_runtime_computes_what_the_module_does(runtime, to_onnx):
    torch.manual_seed(0)
    module, inputs = TwoInputs().eval(), example()
    with torch.inference_mode():
        expected = module.double()(*(tensor.double() for tensor in inputs)).numpy()
    found = computed(runtime, module.float(), inputs, to_onnx)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("runtime", NAMES, indirect=True)
def test_a_prepared_call_runs_and_leaves_the_module_as_it_was(runtime, to_onnx):
    module = TwoInputs().train()
    call = runtime.prepare(module, example(), to_onnx)
    assert runtime.time_block(call, 3) > 0
    if runtime.device_class == "cpu":
        # A call that computed nothing would take as long for 1000 times as many pixels.
        large = runtime.prepare(module, example(side=192), to_onnx)
        times_ms = [min(runtime.time_block(c, 3) for _ in range(5)) for c in (call, large)]
        assert times_ms[1] > 3 * times_ms[0]
    assert module.conv.weight.is_contiguous()
    assert module.conv.weight.device.type == "cpu"
    if not isinstance(runtime, OnnxModelRuntime):
        assert module.training


CONV = OpSpec("conv_3x3", 8, 8, 12, 12)
LARGE = OpSpec("conv_3x3", 64, 64, 40, 40)
SKIP = OpSpec("skip_connect", 64, 64, 40, 40)
ADD = OpSpec("add", 8, 8, 12, 12)
STEM = OpSpec("stem", 3, 8, 12, 12)
TOKENS = OpSpec("token_linear", 16, 16, 3, 3)


@pytest.mark.parametrize("runtime", NAMES, indirect=True)
def test_a_table_separates_operators_without_little_and_much_work(runtime, to_onnx, tmp_path):
    specs = [CONV, LARGE, SKIP, ADD, STEM, TOKENS]
    table = profiled(specs, runtime, to_onnx)
    assert table.missing(specs) == []
    assert all(np.isfinite(table.latency_ms(spec)) for spec in specs)
    assert all(table.measurement(spec).rounds >= QUICK.min_rounds for spec in specs)
    # 59 million MACs against 83 thousand and against none: noise cannot reach these factors.
    assert table.latency_ms(LARGE) > 5 * table.latency_ms(CONV)
    assert table.latency_ms(LARGE) > 10 * table.latency_ms(SKIP)
    assert table.latency_ms(STEM) > 0
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json").device.options == table.device.options
