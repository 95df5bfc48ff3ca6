"""The exporter that these tests give to the profiler and to runtimes of ONNX models."""

import contextlib
import io
import logging

import pytest
import torch


def export(module, inputs):
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            module, inputs, dynamo=True, external_data=False, opset_version=18, verbose=False
        )
    program.save(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def to_onnx():
    return export
