"""Every variant of a network from every space can be inspected and run, whatever its activation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny import TINY_SIZES, tiny_space

from hwnas.deploy.export import INPUT, export_network
from hwnas.deploy.variants import VARIANTS, make_variant
from hwnas.inspection.process import inspect_model
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu
from hwnas.spaces import SPACES

WIDE = {"head_channels": 64}
"""The inspection treats weights of 1 KiB and more in another way than smaller ones."""
QUICK = "mbconv hswish all"
IMAGES = (TINY_SIZES["input_channels"], TINY_SIZES["height"], TINY_SIZES["width"])


def networks() -> list[Any]:
    """Spaces with options that decide which operators their networks consist of."""
    cases: list[tuple[str, str, dict[str, Any]]] = [
        (name, name, {}) for name in sorted(SPACES) if not tiny_space(name).reads_tokens
    ]
    for activation in ("relu", "relu6", "hswish"):
        cases.append((f"elastic {activation}", "elastic", {"activation": activation}))
        for squeeze in ("none", "all", "choice"):
            options = {"activation": activation, "squeeze_excitation": squeeze} | WIDE
            cases.append((f"mbconv {activation} {squeeze}", "mbconv", options))
    return [
        pytest.param(space, options, id=label, marks=[pytest.mark.slow] * (label != QUICK))
        for label, space, options in cases
    ]


@pytest.mark.parametrize("name, options", networks())
def test_all_variants_of_a_network_are_accepted_and_run(name, options, tmp_path) -> None:
    space = tiny_space(name, **options)
    torch.manual_seed(0)
    network = space.network(space.sample(np.random.default_rng(0))).eval()
    source = tmp_path / "model.onnx"
    source.write_bytes(export_network(network, IMAGES).SerializeToString())
    images = np.random.default_rng(1).standard_normal((8, *IMAGES), dtype=np.float32)
    for variant in VARIANTS:
        path = tmp_path / f"{variant}.onnx"
        path.write_bytes(make_variant(variant, source, [{INPUT: images}]))
        inspected = inspect_model(path)
        assert inspected.precision in variant.replace("fp", "float")
        (scores,) = OnnxRuntimeCpu(1).infer(inspected.path)({INPUT: images}).values()
        assert scores.shape[:2] == (8, TINY_SIZES["classes"])
        assert np.isfinite(scores).all()
