"""The embedding of a table's categories against one-hot columns, and as an ONNX graph."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from hwnas.deploy.export import export_network, set_metadata
from hwnas.errors import InputError
from hwnas.inference.predictor import Predictor
from hwnas.latency_tables.table import OpSpec
from hwnas.ops import build, operator_module
from hwnas.spaces import build_space

SPEC = OpSpec("category_embedding_2x4", 5, 8, 1, 1)


def rows_of(numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    return torch.cat([numbers, codes.to(numbers)], dim=1)[:, :, None, None]


def test_the_embedding_is_a_linear_layer_of_one_hot_columns() -> None:
    module = build(SPEC).double().eval()
    numbers, codes = torch.randn(6, 3).double(), torch.randint(0, 4, (6, 2))
    hot = torch.nn.functional.one_hot(codes, 4).flatten(1).double()
    expected = hot @ module.embedding.weight + numbers @ module.project.weight[:, :, 0, 0].T
    found = module(rows_of(numbers, codes))[:, :, 0, 0] * (1 + module.bn.eps) ** 0.5
    torch.testing.assert_close(found, expected)


def test_codes_that_no_text_has_are_the_nearest_ones() -> None:
    module = build(SPEC).eval()
    odd = torch.tensor([[0.0, 0, 0, -3, 9], [0, 0, 0, float("nan"), 2.6], [0, 0, 0, 1e30, -1e30]])
    found = module(odd[:, :, None, None])
    assert torch.isfinite(found).all()
    assert torch.equal(found[:1], module(torch.tensor([[0.0, 0, 0, 0, 3]])[:, :, None, None]))


def test_a_table_of_categories_alone_needs_no_projection() -> None:
    module, shapes, kind = operator_module(OpSpec("category_embedding_3x2", 3, 4, 1, 1))
    assert (module.project, shapes, kind) == (None, [(3, 1, 1)], "source")
    assert module.eval()(torch.ones(2, 3, 1, 1)).shape == (2, 4, 1, 1)


def test_exported_categories_agree_and_texts_become_codes(tmp_path) -> None:
    sizes = {"input_channels": 3, "height": 1, "width": 1, "classes": 2, "categories": (3, 4)}
    space = build_space("sequence", {"layers": 1, "channels": 4, **sizes})
    network = space.network(space.sample(np.random.default_rng(0))).eval()
    model = export_network(network, (3, 1, 1), ("columns", "logits"))
    stated = {
        "input_dtype": "float32",
        "input_mean": [5.0, 0.0, 0.0],
        "input_std": [2.0, 1.0, 1.0],
        "classes": ["healthy", "ill"],
        "columns": ["age", "town", "job"],
        "categories": {"town": ["Bonn", "Ulm"], "job": ["x", "y", "z"]},
        "input_kind": "table",
    }
    written = {key: json.dumps(value) for key, value in stated.items()}
    set_metadata(model, {"task": "table-classification", **written})
    predictor = Predictor(model.SerializeToString())
    samples = np.array([[5, 2, 1], [7, 0, 3], [3, 9, -1]], np.float32)
    inputs = torch.from_numpy(samples - [[5, 0, 0]]).float() / torch.tensor([2.0, 1, 1])
    expected = network(inputs[:, :, None, None]).detach().numpy()
    np.testing.assert_allclose(predictor.outputs(samples), expected, rtol=1e-5, atol=1e-6)

    from hwnas.inference.inputs import rows_of as encoded

    records = [{"age": "5", "town": "Ulm", "job": "x"}, {"age": "7", "town": "Rom", "job": "z"}]
    found = encoded(records, predictor.description, "rows.csv")
    np.testing.assert_array_equal(found, samples[:2])
    for entry in [c for c in model.metadata_props if c.key == "hwnas.categories"]:
        entry.value = '{"town": "Ulm"}'
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(InputError, match="property hwnas.categories"):
        Predictor(path)


def test_spaces_of_images_refuse_categories() -> None:
    with pytest.raises(InputError, match=r"mbconv cannot embed categories.*one-hot"):
        build_space("mbconv", {"input_channels": 3, "categories": (2,)})
    with pytest.raises(InputError, match="2 to 2048 codes"):
        build_space("sequence", {"input_channels": 1, "categories": (2, 3)})
