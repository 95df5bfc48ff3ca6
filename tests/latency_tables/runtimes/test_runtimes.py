"""What each runtime prepares and computes, and its errors; independent of the machine's speed."""

import sys

import numpy as np
import onnx
import pytest
import torch
from helpers.runtime_models import equal_pools, subtraction
from torch import nn

from hwnas.errors import InputError, RuntimeMissingError
from hwnas.latency_tables import devices
from hwnas.latency_tables.calibration import deployed_edges
from hwnas.latency_tables.runtimes import (
    RUNTIMES,
    OnnxRuntimeCpu,
    OnnxRuntimeCuda,
    TensorRtCuda,
    TorchCpu,
    create_runtime,
)
from hwnas.latency_tables.runtimes.onnx import _identity_model


class AddScaled(nn.Module):
    """Two inputs of different roles, so that swapped feeds are noticed."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, a, b):
        return self.conv(a) - 2 * b


def example():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, 3, 6, 6, generator=generator) for _ in range(2))


def test_names_end_in_the_device_and_devices_have_one_statistic():
    for name, runtime_class in RUNTIMES.items():
        assert runtime_class.name == name
        device = name.rsplit("-", 1)[1]
        assert runtime_class.device_class == {"cpu": "cpu", "cuda": "gpu"}[device]
        assert runtime_class.statistic == {"cpu": "p10", "cuda": "median"}[device]


@pytest.mark.parametrize(
    "name, threads, expected",
    [
        ("tensorrt", 1, "one of onnxruntime-cpu, onnxruntime-cuda, .*torch-cpu.*, got tensorrt"),
        ("torch-cpu", 0, "threads: .*>= 1, got 0"),
    ],
)
def test_an_unknown_runtime_or_no_thread_is_refused(name, threads, expected):
    with pytest.raises(InputError, match=expected):
        create_runtime(name, threads)


@pytest.mark.parametrize("name", ["torch-cuda", "onnxruntime-cuda"])
def test_without_a_gpu_the_cuda_runtimes_are_missing(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeMissingError, match=f"{name}: no CUDA device.*choose") as caught:
        create_runtime(name, 1).require()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "name, module",
    [
        ("torch-cpu", "torch"),
        ("torch-aoti-cpu", "torch"),
        ("onnxruntime-cpu", "onnxruntime"),
        ("tensorrt-cuda", "onnxruntime"),
    ],
)
def test_a_library_that_is_not_installed_is_named(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeMissingError, match="is not installed"):
        create_runtime(name, 1).require()


def test_a_session_that_fell_back_to_another_provider_is_refused(monkeypatch):
    # ONNX Runtime falls back like this, without an error, if the provider's libraries are absent.
    monkeypatch.setattr(OnnxRuntimeCpu, "providers", ("CUDAExecutionProvider",))
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, providers: real(model, options, ["CPUExecutionProvider"]),
    )
    with pytest.raises(RuntimeMissingError, match="expected CUDA.*, got CPUExecutionProvider"):
        create_runtime("onnxruntime-cpu", 1).session(subtraction())


def first_provider(runtime):
    """The execution provider that starts, or the error message if the wanted one does not."""
    try:
        return runtime.session(subtraction()).get_providers()[0]
    except RuntimeMissingError as error:
        return str(error)


@pytest.mark.parametrize("runtime_class", [OnnxRuntimeCuda, TensorRtCuda])
def test_a_provider_that_this_machine_lacks_is_not_replaced_silently(runtime_class):
    wanted = runtime_class.providers[0]
    found = first_provider(runtime_class(1))
    assert found == wanted or f"expected {wanted}, got" in found


def test_a_session_does_not_change_its_provider_while_it_runs():
    assert OnnxRuntimeCpu(1).session(subtraction())._enable_fallback is False


def test_without_tensorrt_the_error_names_the_commands_for_another_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        RuntimeMissingError, match="tensorrt-cuda: TensorRT is not available"
    ) as caught:
        create_runtime("tensorrt-cuda", 1).require()
    for words in (
        "trtexec --onnx=model.onnx --shapes=images:",
        "measure.py --model model.onnx --provider TensorrtExecutionProvider",
        "hwnas check model.onnx --measured results.json",
    ):
        assert words in str(caught.value)


def test_tensorrt_is_asked_for_float32_and_states_it(monkeypatch):
    import onnxruntime

    asked = []

    def no_session(model, options, providers):
        asked.extend(providers)
        raise ValueError("no TensorRT")

    monkeypatch.setattr(onnxruntime, "InferenceSession", no_session)
    runtime = TensorRtCuda(1)
    with pytest.raises(InputError, match="no TensorRT"):
        runtime.session(subtraction())
    first, *others = asked
    assert first == (
        "TensorrtExecutionProvider",
        {"trt_fp16_enable": "0", "trt_int8_enable": "0"},
    )
    assert others == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert runtime.options().items() >= first[1].items()


def test_without_a_compiler_the_compiling_runtimes_are_missing(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    for name in ("torch-compile-cpu", "torch-aoti-cpu"):
        with pytest.raises(RuntimeMissingError, match="no C.. compiler, expected no-such-compiler"):
            create_runtime(name, 1).require()


@pytest.mark.parametrize("name", ["torch-export-cpu", "torch-compile-cpu", "torch-aoti-cpu"])
def test_a_module_that_cannot_be_exported_is_refused_in_one_line(name, to_onnx):
    class DependsOnValues(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(InputError, match="PyTorch cannot export the network: ") as caught:
        create_runtime(name, 1).prepare(DependsOnValues(), example()[:1], to_onnx)
    assert "\n" not in str(caught.value)


def test_the_probe_model_is_valid():
    onnx.checker.check_model(onnx.load_from_string(_identity_model()))


def test_torch_call_runs_the_module_in_eval_mode_and_leaves_it_as_it_was(to_onnx):
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            channels_last = x.is_contiguous(memory_format=torch.channels_last)
            seen.append((self.training, torch.is_inference_mode_enabled(), channels_last))
            return self.conv(x)

    module = Spy().train()
    TorchCpu(1).prepare(module, example()[:1], to_onnx)()
    assert seen == [(False, True, True)]
    assert module.training
    assert module.conv.weight.is_contiguous()


def test_torch_threads_hold_in_the_block_and_are_restored_after_an_error():
    before = torch.get_num_threads()
    seen = []

    def call():
        seen.append(torch.get_num_threads())
        if len(seen) == 3:
            raise ZeroDivisionError

    runtime = TorchCpu(before + 1)
    with pytest.raises(ZeroDivisionError):
        runtime.time_block(call, 5)
    assert seen == [before + 1] * 3
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["torch-cpu", "onnxruntime-cpu"])
def test_time_block_makes_as_many_calls_as_asked(name):
    made = []
    time_ms = create_runtime(name, 1).time_block(lambda: made.append(1), 7)
    assert len(made) == 7
    assert time_ms > 0


def test_an_onnx_call_computes_the_same_as_the_module(to_onnx, monkeypatch):
    module, inputs = AddScaled().eval(), example()
    bound = {}
    runtime = OnnxRuntimeCpu(1)
    session_of = runtime.session

    class Recorder:
        """Keeps the binding, which holds the outputs of the call."""

        def __init__(self, model):
            self.session = session_of(model)

        def __getattr__(self, name):
            return getattr(self.session, name)

        def run_with_iobinding(self, binding):
            bound["outputs"] = binding
            self.session.run_with_iobinding(binding)

    monkeypatch.setattr(runtime, "session", Recorder)
    call = runtime.prepare(module, inputs, to_onnx)
    call()
    call()
    (output,) = bound["outputs"].copy_outputs_to_cpu()
    with torch.inference_mode():
        np.testing.assert_allclose(output, module(*inputs).numpy(), rtol=1e-5, atol=1e-5)


def test_a_dynamic_batch_runs_at_the_size_of_the_feeds():
    feeds = {name: np.ones((5, 2), np.float32) for name in "ab"}
    OnnxRuntimeCpu(1).prepare_onnx(subtraction(), feeds)()


@pytest.mark.parametrize(
    "feeds, expected",
    [
        ({"a": (1, 2)}, r"feeds do not match.*\['a', 'b'\], got \['a'\]"),
        ({"a": (1, 2), "b": (1, 3)}, "cannot run the model|nvalid"),
        ({"a": (1, 2, 2), "b": (1, 2)}, "cannot run the model|nvalid"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(feeds, expected):
    arrays = {name: np.ones(shape, np.float32) for name, shape in feeds.items()}
    with pytest.raises(InputError, match=expected):
        OnnxRuntimeCpu(1).prepare_onnx(subtraction(), arrays)


@pytest.mark.parametrize("model", [b"", b"not a model", subtraction()[:40]])
def test_a_file_that_is_no_model_is_refused_in_one_line(model):
    with pytest.raises(InputError, match="ONNX Runtime cannot load the model") as caught:
        OnnxRuntimeCpu(1).session(model)
    assert "\n" not in str(caught.value)


def test_sessions_are_optimised_and_use_the_threads_asked_for():
    options = OnnxRuntimeCpu(3).session(subtraction()).get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.graph_optimization_level.name == "ORT_ENABLE_ALL"
    assert options.execution_mode.name == "ORT_SEQUENTIAL"


@pytest.mark.parametrize("threads", [1, 2])
def test_the_options_in_a_table_are_those_of_the_session(threads):
    runtime = OnnxRuntimeCpu(threads)
    session = runtime.session(subtraction())
    found = session.get_session_options()
    stated = runtime.profile(dtype="float32", batch=1).options
    assert stated == {
        "execution_mode": found.execution_mode.name,
        "graph_optimization_level": found.graph_optimization_level.name,
        "inter_op_num_threads": str(found.inter_op_num_threads),
        "intra_op_num_threads": str(found.intra_op_num_threads),
        "providers": ", ".join(session.get_providers()),
    }


def test_processor_name_falls_back_to_the_architecture(monkeypatch):
    def no_file(self, encoding):
        raise FileNotFoundError

    monkeypatch.setattr(devices.Path, "read_text", no_file)
    monkeypatch.setattr(devices.platform, "processor", lambda: "")
    monkeypatch.setattr(devices.platform, "machine", lambda: "riscv64")
    assert devices.cpu_name() == "riscv64"


def test_runtimes_of_the_rule_once_eliminate_common_subexpressions(tmp_path):
    """ONNX Runtime stands for all of them here; OpenVINO has its own test, and ncnn merges none."""
    ort = pytest.importorskip("onnxruntime")
    for name in RUNTIMES:
        plain = name.startswith("ncnn") or (name.startswith("torch") and not RUNTIMES[name].fuses)
        assert deployed_edges(name) == ("live" if plain else "once")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(equal_pools(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx").graph.node
    assert sum(node.op_type == "AveragePool" for node in optimised) == 1
