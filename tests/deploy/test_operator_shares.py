"""Profiled nodes are attributed to the choices they belong to, fused ones too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from helpers.tiny import spaces_to_export, tiny_space
from onnx import helper

from hwnas.deploy.export import INPUT, export_network
from hwnas.deploy.operator_shares import FIXED, LAYOUT, UNCERTAIN, attribute, operator_shares
from hwnas.latency_tables.measuring.node_times import NodeShare
from hwnas.latency_tables.runtimes import OnnxRuntime, create_runtime

SHAPE = (1, 9, 7)
SMALL = {"darts": {"nodes": 2}}


@pytest.mark.parametrize("name", spaces_to_export())
def test_every_node_of_an_exported_network_is_attributed(name: str) -> None:
    torch.manual_seed(0)
    space = tiny_space(name, **SMALL.get(name, {}))
    architecture = space.sample(np.random.default_rng(0))
    network = space.network(architecture).eval()
    modules = dict(network.named_modules())
    assert set(network.choice_modules) <= set(modules)
    model = export_network(network, SHAPE)
    assert {node.name.rpartition("/")[0] for node in model.graph.node} <= {*modules, "network"}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    runtime = create_runtime("onnxruntime-cpu", 1)
    assert isinstance(runtime, OnnxRuntime)
    images = {INPUT: np.ones((1, *SHAPE), dtype=np.float32)}
    document = operator_shares(model, network.choice_modules, runtime, images)
    shares = document["shares"]
    assert document["by"] == "choice"
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-3)
    # Convolutions are not fused with each other, so each choice with one must appear.
    runs = space.run_probability(space.one_hot(architecture).weights).sum(dim=1)
    expected = {
        choice for row, (choice, option) in enumerate(architecture)
        if "conv" in option and runs[row] > 0
    }  # fmt: skip
    taken = {choice for choice, option in architecture if option != "none"}
    # The last addition of a transformer is fused into the norm of its head, and steps of a
    # recurrent cell into each other.
    others = {FIXED, LAYOUT, *([UNCERTAIN] if name in ("rnn", "vit") else [])}
    assert expected <= set(shares) <= taken | others
    by_type = operator_shares(model, {}, runtime, images)
    assert by_type["by"] == "operator type"
    assert "Conv" in by_type["shares"]


MODULES = {"cell.operators.0": "0>1", "cell.operators.1": "1>2", "cell.operators.2": "0>2"}


def graph() -> onnx.ModelProto:
    """Two convolutions, their sum, and a ReLU, a convolution and a classifier that follow."""
    nodes = [
        helper.make_node("Conv", ["x"], ["cell.operators.0.conv/Conv"]),
        helper.make_node("Conv", ["x"], ["cell.operators.1.conv/Conv"]),
        helper.make_node(
            "Add", ["cell.operators.0.conv/Conv", "cell.operators.1.conv/Conv"], ["cell/Add"]
        ),
        helper.make_node("Relu", ["cell/Add"], ["cell.operators.2.relu/Relu"]),
        helper.make_node("Conv", ["cell.operators.2.relu/Relu"], ["cell.operators.2.conv/Conv"]),
        helper.make_node("Gemm", ["cell.operators.2.conv/Conv"], ["y"], name="head.fc/Gemm"),
    ]
    for node in nodes:
        node.name = node.name or node.output[0]
    return helper.make_model(helper.make_graph(nodes, "cell", [], []))


def parts(*names_and_operators: tuple[str, str]) -> list[str]:
    nodes = [NodeShare(name, operator, 0.1) for name, operator in names_and_operators]
    return attribute(graph(), MODULES, nodes)


def test_a_fused_node_is_attributed_to_its_convolution_not_to_its_name() -> None:
    found = parts(
        ("cell.operators.0.conv/Conv_nchwc", "Conv"),
        ("cell.operators.2.relu/Relu_nchwc", "Conv"),
        ("fused cell.operators.2.conv/Conv", "FusedConv"),
        ("ReorderOutput_token_3", "ReorderOutput"),
        ("head.fc/Gemm", "Gemm"),
    )
    assert found == ["0>1", "1>2", "0>2", LAYOUT, FIXED]


def test_nodes_that_are_not_fused_are_attributed_by_name() -> None:
    found = parts(
        ("cell.operators.0.conv/Conv_nchwc", "Conv"),
        ("cell.operators.1.conv/Conv_nchwc_token_7", "Conv"),
        ("cell/Add", "Add"),
        ("cell.operators.2.relu/Relu", "Relu"),
    )
    assert found == ["0>1", "1>2", FIXED, "0>2"]


def test_a_node_that_the_runtime_named_is_attributed_to_its_neighbours_if_they_agree() -> None:
    found = parts(
        ("cell.operators.0.conv/Conv", "Conv"),
        ("BiasGelu", "BiasGelu"),
        ("ReorderOutput", "ReorderOutput"),
        ("cell.operators.0.conv/Conv", "Conv"),
        ("BiasGelu_token_2", "BiasGelu"),
        ("cell.operators.1.conv/Conv/MatMulScaleFusion/", "FusedConv"),
        ("BiasGelu_token_5", "BiasGelu"),
    )
    assert found == ["0>1", "0>1", LAYOUT, "0>1", UNCERTAIN, "1>2", UNCERTAIN]


def test_a_node_of_several_choices_is_uncertain() -> None:
    assert parts(("cell.operators.2.relu/Relu", "Conv"), ("made up", "Conv")) == [UNCERTAIN] * 2
