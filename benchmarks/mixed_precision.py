"""Claim: int8 for some operators is faster than float32 and than int8 for all, at no loss.

Networks of 20 million multiply-accumulates and more are trained shortly on a part of Fashion-MNIST
at its full resolution, exported, and brought to other formats by what `hwnas quantize --variants
int8,int8-mixed` does: all variants are measured in the same rounds. A row for each variant has the
ratio of its latency to that of float32 and to that of int8, the accuracy on the test images, and
the ratio that was predicted for it.

    python benchmarks/mixed_precision.py --network mobilenetv2 --seeds 0 1
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from results import append_row
from shrink import trained
from shrink_baselines import Plain
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.plain_networks import MobileNetV2, ResNet, Vgg

from hwnas.checking.request import CheckRequest
from hwnas.config import CheckConfig
from hwnas.data import Dataset, load_dataset
from hwnas.deploy.export import INPUT, export_network
from hwnas.inspection.process import inspect_model
from hwnas.pipeline.quantize import Quantization, quantize
from hwnas.runs.progress import shown

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": lambda: ResNet(3, channels=1),
    "mobilenetv2": lambda: MobileNetV2(channels=1, width=1.0),
    "vgg11": lambda: Vgg(channels=1, size=28),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(NETWORKS), required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the comparison")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset("fashion-mnist-slice", None)
    part = Dataset(
        data.name, data.classes, data.train.take(np.arange(arguments.samples)), data.test, data.task
    )
    for seed in arguments.seeds:
        torch.manual_seed(seed)
        model = trained(NETWORKS[arguments.network](), part, arguments.epochs, seed)
        with TemporaryDirectory() as folder:
            document = compared(model, part, Path(folder), arguments.seconds)
        for name, entry in document["variants"].items():
            append_row("mixed_precision", figures(arguments.network, seed, name, entry, document))


def compared(model: nn.Module, data: Dataset, folder: Path, seconds: float) -> dict[str, Any]:
    """The variants of a trained module as `hwnas quantize` finds them."""
    path, samples = folder / "model.onnx", folder / "samples.npz"
    path.write_bytes(export_network(Plain(model).eval(), data.input_shape).SerializeToString())
    # The first samples are the calibration data, and the accuracy is that of all.
    inputs = data.normalise(data.test.inputs).numpy()
    np.savez(samples, **{INPUT: inputs, "labels": data.test.targets})
    limits = CheckConfig(measure_seconds=seconds, max_accuracy_drop=0.003)
    what = Quantization(("fp32", "int8", "int8-mixed"))
    started = time.monotonic()
    document = quantize(
        inspect_model(path), samples, folder / "out", what, CheckRequest(limits), stage=shown
    )
    return document | {"seconds": time.monotonic() - started, "samples": len(inputs)}


def figures(
    network: str, seed: int, name: str, entry: dict[str, Any], document: dict[str, Any]
) -> dict[str, Any]:
    """A row about one variant."""
    int8_ms = document["variants"]["int8"]["measured"]["value_ms"]
    choice = document["mixed"].get(name, {})
    quantised, layers = choice.get("layers", ("", ""))
    made = entry["error"] is None
    return {
        "network": network,
        "seed": seed,
        "variant": name,
        "quantised": quantised,
        "layers": layers,
        "latency_ms": entry["measured"]["value_ms"] if made else "",
        "ratio": entry["ratio"]["value"] if made else "",
        "ratio_low": entry["ratio"]["ci_low"] if made else "",
        "ratio_high": entry["ratio"]["ci_high"] if made else "",
        "ratio_to_int8": entry["measured"]["value_ms"] / int8_ms if made else "",
        "predicted_ratio": choice.get("predicted_ratio", ""),
        "accuracy": entry["accuracy"]["onnx"] if made else "",
        "drop": entry["accuracy"]["drop"] if made else "",
        "samples": document["samples"],
        "verdict": entry["verdict"] or entry["error"],
        "seconds": document["seconds"],
    }


if __name__ == "__main__":
    main()
