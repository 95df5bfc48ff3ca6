"""Bundles: what is written, which script runs on the device, and tables made from its results."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.profiled import build_operator

from hwnas.errors import InputError
from hwnas.latency_tables import on_device
from hwnas.latency_tables.measuring.bundle import (
    measured_networks,
    operator_table,
    read_results,
    write_bundle,
)
from hwnas.latency_tables.measuring.operator_calls import COPIES, operator_graphs
from hwnas.latency_tables.table import OpSpec

STEM = OpSpec("stem", 3, 8, 12, 12)
POOL = OpSpec("max_pool_3x3", 8, 8, 12, 12)
SCRIPTS = Path(on_device.__file__).parent
SCRIPT = SCRIPTS / "measure.py"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, to_onnx):
    """A folder with a bundle of two operators and two networks."""
    folder = tmp_path_factory.mktemp("device") / "bundle"
    groups = list(operator_graphs([STEM, POOL], build=build_operator, to_onnx=to_onnx, batch=1))
    graph = groups[0][0][str(STEM)]
    write_bundle(
        folder,
        groups,
        {"small": graph, "large": graph},
        definitions={"max_pool_3x3": "ab12"},
        dtype="float32",
        batch=1,
        space="tests",
        space_options={},
    )
    return folder


@pytest.fixture
def results(bundle, tmp_path):
    """A results file in which every model of a group takes 1 ms longer than the one before."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    content = {
        "schema": 1,
        "device": "Test board",
        "provider": "CPUExecutionProvider",
        "threads": 2,
        "versions": {"onnxruntime": "1.31.0"},
        "manifest": manifest,
        "rounds_ms": {
            str(number): {
                model["name"]: [1.0 + index] * 60 for index, model in enumerate(group["models"])
            }
            for number, group in enumerate(manifest["groups"])
        },
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    return path


def changed(path, **update):
    path.write_text(json.dumps(json.loads(path.read_text()) | update))
    return path


def test_a_bundle_has_the_script_and_the_models_of_its_manifest(bundle) -> None:
    assert (bundle / "measure.py").read_bytes() == SCRIPT.read_bytes()
    manifest = json.loads((bundle / "manifest.json").read_text())
    stated = [model["file"] for group in manifest["groups"] for model in group["models"]]
    assert sorted(stated) == sorted(f"models/{path.name}" for path in (bundle / "models").iterdir())
    assert manifest["groups"][1]["networks"] == ["small", "large"]


def test_a_folder_that_is_not_empty_is_refused(bundle) -> None:
    with pytest.raises(InputError, match="bundle: the folder is not empty"):
        write_bundle(
            bundle, [], {}, definitions={}, dtype="float32", batch=1, space="", space_options={}
        )


@pytest.mark.parametrize("name", ["measure", "state", "serve"])
def test_what_runs_on_devices_needs_only_python_3_8_onnxruntime_and_numpy(name) -> None:
    tree = ast.parse((SCRIPTS / f"{name}.py").read_text(), feature_version=(3, 8))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) <= {"numpy", "onnxruntime", "hwnas"}
    own = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert all(
        module.startswith("hwnas.latency_tables.on_device.")
        for module in own
        if module.split(".")[0] == "hwnas"
    )
    assert name != "measure" or "hwnas" not in imported


def test_results_give_a_table_and_the_latencies_of_networks(results) -> None:
    found = read_results(results)
    table = operator_table(found, str(results))
    group = found.manifest.groups[0]
    rounds_ms = {model.name: 1.0 + index for index, model in enumerate(group.models)}
    baseline = next(operator.baseline for operator in group.operators if operator.baseline)
    difference_ms = rounds_ms[str(POOL)] - rounds_ms[baseline]
    assert table.latency_ms(STEM) == rounds_ms[str(STEM)]
    assert table.latency_ms(POOL) == difference_ms / COPIES
    assert (table.device.runtime, table.device.threads) == ("onnxruntime-cpu", 2)
    networks = measured_networks(found, str(results))
    assert networks.genotypes == ["small", "large"]
    np.testing.assert_array_equal(networks.latency_ms, [1.0, 2.0])


def test_unfinished_results_are_refused(results) -> None:
    rounds_ms = json.loads(results.read_text())["rounds_ms"]
    del rounds_ms["1"]
    found = read_results(changed(results, rounds_ms=rounds_ms))
    with pytest.raises(InputError, match="not finished, expected 2 groups, got 1"):
        operator_table(found, str(results))
    with pytest.raises(InputError, match="not finished"):
        measured_networks(found, str(results))


def test_results_of_a_single_model_are_not_a_table(results) -> None:
    with pytest.raises(InputError, match="a single model instead of a bundle"):
        operator_table(read_results(changed(results, manifest=None)), str(results))


@pytest.mark.parametrize(
    "update, key",
    [
        ({"provider": "OtherProvider"}, "provider"),
        ({"threads": 0}, "threads"),
        ({"note": "hi"}, "note"),
        ({"rounds_ms": {"0": {"a": []}}}, "rounds_ms.0.a"),
        ({"rounds_ms": {"0": {"a": [-1.0]}}}, "rounds_ms.0.a.0"),
    ],
)
def test_malformed_results_are_refused_with_the_key(results, update, key) -> None:
    with pytest.raises(InputError, match="not the results of a bundle") as caught:
        read_results(changed(results, **update))
    assert str(caught.value).startswith(f"{results}: {key}: ")
