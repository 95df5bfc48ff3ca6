"""Models that other tools export: PyTorch's two exporters, and skl2onnx for scikit-learn."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn


def torch_export(module: nn.Module, inputs, path: Path, **settings) -> Path:
    """Export with PyTorch's older, tracing exporter, which writes older opsets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), inputs, str(path), dynamo=False, **settings)
    return path


def conv_block(path: Path) -> Path:
    torch.manual_seed(0)
    block = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    batch = {"images": {0: "batch"}, "scores": {0: "batch"}}
    return torch_export(
        block,
        (torch.zeros(1, 3, 16, 16),),
        path,
        input_names=["images"],
        output_names=["scores"],
        dynamic_axes=batch,
        opset_version=13,
    )


def lstm(path: Path) -> Path:
    """An LSTM for sequences of any batch size and length, with its state as inputs."""
    torch.manual_seed(0)
    state = torch.zeros(1, 2, 6)
    axes = {"x": {0: "batch", 1: "length"}, "h": {1: "batch"}, "c": {1: "batch"}}
    return torch_export(
        nn.LSTM(4, 6, batch_first=True),
        (torch.zeros(2, 5, 4), (state, state)),
        path,
        input_names=["x", "h", "c"],
        output_names=["y", "hn", "cn"],
        dynamic_axes=axes | {"y": {0: "batch", 1: "length"}, "hn": {1: "batch"}},
        opset_version=17,
    )


class TokenClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embedding(tokens)).mean(dim=1))


def transformer(path: Path) -> Path:
    """Integer inputs, PyTorch's newer exporter, and weights in a file beside the model."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            TokenClassifier().eval(),
            (torch.zeros(2, 7, dtype=torch.int64),),
            str(path),
            dynamo=True,
            external_data=True,
            dynamic_shapes=({0: "batch"},),
            verbose=False,
        )
    return path


def _labelled_features(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((300, 4)).astype(np.float32)
    return features, (features[:, 0] + features[:, 1] ** 2 > 0.5).astype(np.int64)


def sklearn_pipeline(path: Path) -> Path:
    """A random forest after a scaler; its probabilities are a sequence of maps."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = _labelled_features()
    forest = RandomForestClassifier(10, max_depth=4, random_state=0)
    pipeline = make_pipeline(StandardScaler(), forest).fit(features, labels)
    path.write_bytes(to_onnx(pipeline, features[:1]).SerializeToString())
    return path


def sklearn_texts(path: Path) -> Path:
    """A model with strings as inputs and outputs."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    texts = np.array([["0", "1"], ["1", "0"], ["1", "1"], ["0", "0"]])
    pipeline = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    pipeline.fit(texts, ["yes", "no", "no", "yes"])
    model = to_onnx(pipeline, initial_types=[("words", StringTensorType([None, 2]))])
    path.write_bytes(model.SerializeToString())
    return path


def sklearn_data(path: Path) -> Path:
    features, labels = _labelled_features(1)
    np.savez(path, X=features, labels=labels)
    return path
