"""The C++ program of the page on using a model, compiled and run with ONNX Runtime's library."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from hwnas.data import Normalisation
from hwnas.deploy.export import export_network

PAGE = Path(__file__).parents[2] / "docs" / "use_the_model.md"
SDK = os.environ.get("HWNAS_ONNXRUNTIME_SDK")


@pytest.mark.slow
@pytest.mark.skipif(SDK is None, reason="HWNAS_ONNXRUNTIME_SDK names no folder")
def test_the_program_prints_the_class_of_the_largest_output(tmp_path) -> None:
    assert SDK is not None
    (source,) = re.findall(r"```cpp\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "main.cpp").write_text(source)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    moments = Normalisation("uint8", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    model = export_network(network.eval(), (3, 32, 32), preprocessing=moments)
    onnx.save(model, tmp_path / "model.onnx")
    library = ["-L", f"{SDK}/lib", "-lonnxruntime", f"-Wl,-rpath,{Path(SDK, 'lib').resolve()}"]
    command = ["g++", "-std=c++17", "-I", f"{SDK}/include", "main.cpp", "-o", "main", *library]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = subprocess.run(["./main"], cwd=tmp_path, check=True, capture_output=True, text=True)
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, {"images": np.zeros((1, 3, 32, 32), np.uint8)})
    assert int(found.stdout) == logits[0].argmax()
