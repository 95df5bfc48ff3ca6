"""Errors of ONNX Runtime are shortened to their cause."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import odd_models

from hwnas.errors import InputError
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu
from hwnas.latency_tables.runtimes.onnx_errors import cause_of

RUNNING = "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running "
SOURCES = "/onnxruntime_src/onnxruntime/core/"


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            f"{RUNNING}TopK node. Name:'' Status Message: k argument [16] should not be greater",
            "TopK node: k argument [16] should not be greater",
        ),
        (
            f"{RUNNING}Resize node. Name:'up' Status Message: upsamplebase.h:548 "
            "ScalesValidation Scale value should be greater than 0.",
            "Resize node 'up': Scale value should be greater than 0.",
        ),
        (
            f"{RUNNING}Reshape node. Name:'a b' Status Message: {SOURCES}providers/cpu/tensor/"
            "reshape_helper.h:91 onnxruntime::ReshapeHelper::ReshapeHelper(const onnxruntime::"
            "TensorShape&, bool) input_size == requested_size was false. The input tensor cannot "
            "be reshaped to the requested shape. Input shape:{2,4}\n",
            "Reshape node 'a b': The input tensor cannot be reshaped to the requested shape. "
            "Input shape:{2,4}",
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: "
            f"{SOURCES}optimizer/initializer.cc:35 onnxruntime::Initializer::Initializer(const "
            "std::path&) !model_path.empty() was false. model_path must not be empty.",
            "model_path must not be empty.",
        ),
        ("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no Cast(25)", "no Cast(25)"),
        ("another library's error in a file.h", "another library's error in a file.h"),
        (ValueError(), "ValueError"),
    ],
)
def test_codes_and_sources_are_left_out(text, expected) -> None:
    assert cause_of(text) == expected


def test_an_error_of_the_installed_runtime_keeps_its_whole_text_beside_the_cause(tmp_path) -> None:
    model = odd_models.model_of(
        [odd_models.node("Reshape", "x shape", "y")],
        [odd_models.value("x", "n", 4)],
        [odd_models.value("y", None, None)],
        shape=np.array([3, 5]),
    ).SerializeToString()
    with pytest.raises(InputError) as refusal:
        OnnxRuntimeCpu(1).prepare_onnx(model, {"x": np.zeros((2, 4), np.float32)})
    assert "Reshape node: The input tensor cannot be reshaped" in str(refusal.value)
    assert ".h:" not in str(refusal.value)
    assert "reshape_helper.h" in refusal.value.details
