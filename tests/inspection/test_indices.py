"""Inputs that are indices are recognised through moves, offsets, branches and functions."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.model_checks import observed
from helpers.odd_models import FLOAT, INT64, model_of, node, random_weights, value
from helpers.small_models import saved
from onnx import helper

from hwnas.checking.inputs.feeds import feeds_for
from hwnas.checking.inputs.open_sizes import StatedSizes
from hwnas.inspection.process import inspect_model

TOKENS, ROWS = value("tokens", "n", 6, kind=INT64), value("y", "n", 6, 4)
TABLE = random_weights(3000, 4)


def embedding(*before, indices: str = "tokens", **stored):
    nodes = [*before, node("Gather", f"table {indices}", "y")]
    return model_of(nodes, [TOKENS], [ROWS], table=TABLE, **stored)


def in_a_branch():
    gather = node("Gather", "table tokens", "b")
    branch = helper.make_graph([gather], "branch", [], [value("b", None, None, None)])
    nodes = [node("If", "yes", "y", then_branch=branch, else_branch=branch)]
    return model_of(nodes, [TOKENS], [ROWS], table=TABLE, yes=np.array(True))


def in_a_function():
    model = model_of([node("F", "table tokens", "y", domain="own")], [TOKENS], [ROWS], table=TABLE)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    body = [node("Gather", "a i", "r")]
    model.functions.append(helper.make_function("own", "F", ["a", "i"], ["r"], body, opsets))
    model.opset_import.append(opsets[1])
    return model


def two_tables():
    nodes = [node("Gather", "table tokens", "a"), node("Gather", "small tokens", "b")]
    nodes.append(node("Add", "a b", "y"))
    return model_of(nodes, [TOKENS], [ROWS], table=TABLE, small=random_weights(7, 4))


def one_hot():
    nodes = [node("OneHot", "tokens depth limits", "y")]
    stored = {"depth": np.array(11), "limits": np.float32([0, 1])}
    return model_of(nodes, [TOKENS], [value("y", "n", 6, 11)], **stored)


def elements():
    nodes = [node("GatherElements", "x tokens", "y", axis=1)]
    return model_of(nodes, [TOKENS, value("x", "n", 9)], [value("y", "n", 6)])


def regions():
    sizes = {"output_height": 2, "output_width": 2, "sampling_ratio": 2}
    nodes = [node("RoiAlign", "images boxes batch_of_box", "y", **sizes)]
    inputs = [value("images", "n", 3, 16, 16), value("boxes", "r", 4)]
    inputs.append(value("batch_of_box", "r", kind=INT64))
    return model_of(nodes, inputs, [value("y", "r", 3, 2, 2)])


CASES = {
    "a table": (embedding(), 3000),
    "moved": (
        embedding(
            node("Cast", "tokens", "c", to=INT64),
            node("Unsqueeze", "c axis", "u"),
            node("Squeeze", "u axis", "s"),
            indices="s",
            axis=np.array([1]),
        ),
        3000,
    ),
    "with an offset": (
        embedding(node("Add", "tokens two", "o"), indices="o", two=np.array(2)),
        2998,
    ),
    "in a branch": (in_a_branch(), 3000),
    "in a function": (in_a_function(), 3000),
    "the smaller of two tables": (two_tables(), 7),
    "one-hot": (one_hot(), 11),
    "along an axis": (elements(), 9),
    "an integer that is no index": (
        model_of([node("Cast", "tokens", "y", to=FLOAT)], [TOKENS], [value("y", "n", 6)]),
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_indices_are_drawn_from_what_the_graph_allows(name, tmp_path) -> None:
    model, expected = CASES[name]
    found = inspect_model(saved(model, tmp_path / "model.onnx"))
    assert found.inputs[0].below == expected
    tokens = feeds_for(found, StatedSizes(), None, 1).random(500, 0)["tokens"]
    assert tokens.min() == 0
    assert tokens.max() < (expected or 2)
    assert len(np.unique(tokens)) > min(expected or 2, 1500) * 0.8


def test_indices_into_a_batch_stay_within_it(tmp_path) -> None:
    path = saved(regions(), tmp_path / "model.onnx")
    found = inspect_model(path)
    assert found.inputs[2].below == "n"
    feeds = feeds_for(found, StatedSizes(), None, 1)
    assert feeds.random(1, 0)["batch_of_box"].max() == 0
    assert 2 < feeds.random(7, 0)["batch_of_box"].max() < 7
    assert observed(path)[1]["dynamic_batch"] == "pass"


def test_regions_go_with_their_images(tmp_path) -> None:
    path = saved(regions(), tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, 3, 16, 16)).astype(np.float32)
    corners = rng.uniform(0, 8, (7, 2))
    boxes = np.concatenate([corners, corners + 6], axis=1).astype(np.float32)
    of_image = np.array([2, 0, 2, 3, 0, 2, 1])
    data = {"images": images, "boxes": boxes, "batch_of_box": of_image}
    np.savez(tmp_path / "data.npz", **data)
    feeds = feeds_for(inspect_model(path), StatedSizes(), tmp_path / "data.npz", 1)
    assert feeds.samples.count == 4
    chosen = feeds.samples.take(np.array([3, 2]))
    np.testing.assert_array_equal(chosen["images"], images[[3, 2]])
    np.testing.assert_array_equal(chosen["batch_of_box"], [0, 1, 1, 1])
    np.testing.assert_array_equal(chosen["boxes"], boxes[[3, 0, 2, 5]])
    behaviour, gates = observed(path, path, tmp_path / "data.npz")
    assert behaviour.failures == []
    assert gates["parity"] == gates["dynamic_batch"] == gates["finite"] == "pass"
