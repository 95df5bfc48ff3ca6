"""A model with several inputs: found in a user's module, exported, and asked for predictions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.command_line import refused
from helpers.data_files import refusal
from helpers.own_networks import FourInputs

from hwnas import dataset_of, space_of
from hwnas.architecture import Mixture
from hwnas.data import Dataset
from hwnas.data.inputs import fields_of
from hwnas.deploy.export import export_network, set_metadata
from hwnas.inference.predictor import Predictor
from hwnas.pipeline.own_problem import examples_of
from hwnas.spaces.networks import Network
from hwnas.spaces.traced.space import TracedSpace
from hwnas.tasks import task_of

COUNT = 20
NAMES = ["image", "signal", "columns", "words"]


@pytest.fixture(scope="module")
def data() -> Dataset:
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.integers(0, 256, (COUNT, 2, 6, 6), dtype=np.uint8),
        "signal": rng.normal(3, 2, (COUNT, 3, 8)),
        "columns": rng.normal(-1, 5, (COUNT, 4)),
        "words": rng.integers(0, 9, (COUNT, 5)),
    }
    pair = inputs, np.tile(["cat", "dog", "owl", "cat"], COUNT // 4)
    found = dataset_of(pair, pair, kind={"words": "tokens"})
    return found.with_input_names(NAMES)


@pytest.fixture(scope="module")
def space(data: Dataset) -> TracedSpace:
    torch.manual_seed(0)
    return space_of(FourInputs(), examples_of(data))


@pytest.fixture(scope="module")
def network(space: TracedSpace) -> Network:
    return space.network(space.sample(np.random.default_rng(1))).eval()


@pytest.fixture(scope="module")
def model(data: Dataset, network: Network, space: TracedSpace) -> onnx.ModelProto:
    task = task_of(data)
    found = export_network(network, space.options.reads, (task.input_name, task.output_name))
    stated = {key: json.dumps(value) for key, value in task.properties().items()}
    set_metadata(found, {"task": task.name, **stated})
    return found


def test_the_space_has_the_names_of_the_arguments(data, space) -> None:
    assert space.options.inputs == data.inputs
    assert space.reading(data.input_shape).options.reads == data.inputs
    assert space.size() == 6
    kept = type(space.options).model_validate(space.options.model_dump(mode="json"))
    assert kept == space.options


def test_only_what_reads_the_first_input_is_priced_with_a_run(space) -> None:
    kinds = {spec.name: space.operator_module(spec)[2] for spec in space.all_operators()}
    assert sum(kind == "source" for kind in kinds.values()) == 2  # the two convolutions
    assert set(kinds.values()) == {"source", "operator", "tokens"}
    for spec in space.all_operators():
        module, shapes, kind = space.operator_module(spec)
        is_tokens = kind == "tokens"
        given = [torch.zeros(2, *s, dtype=torch.long if is_tokens else None) for s in shapes]
        assert module.eval()(*given).shape[0] == 2


def test_network_and_supernet_compute_what_the_model_does(data, space, network) -> None:
    inputs = data.normalise(data.train.inputs)
    with torch.no_grad():
        outputs = network(inputs)
        assert torch.equal(outputs, network.plain()(*inputs))
        supernet = space.supernet().eval()
        architecture = space.sample(np.random.default_rng(1))
        mixture = Mixture(space.one_hot(architecture).weights.float())
        inherited = space.network(architecture).eval()
        inherited.load_state_dict(supernet.weights_of(architecture))
        torch.testing.assert_close(supernet(inputs, mixture), inherited(inputs))


def as_tuple(arrays: dict[str, np.ndarray]) -> Any:
    return tuple(arrays.values())


def reversed_names(arrays: dict[str, np.ndarray]) -> Any:
    return {name: arrays[name] for name in reversed(NAMES)}


@pytest.mark.parametrize("form", [as_tuple, reversed_names, list])
def test_raw_samples_are_prepared_exactly_as_in_training(data, model, network, form) -> None:
    predictor = Predictor(model.SerializeToString())
    with torch.no_grad():
        expected = network(data.normalise(data.train.inputs)).numpy()
    arrays = fields_of(data.train.inputs)
    samples = data.train.inputs if form is list else form(arrays)
    np.testing.assert_allclose(predictor.outputs(samples), expected, rtol=1e-4, atol=1e-5)
    names = np.array(["cat", "dog", "owl"])[expected.argmax(axis=1)]
    assert predictor.predict(samples).tolist() == names.tolist()


def test_samples_that_do_not_fit_are_refused_by_the_input_s_name(data, model) -> None:
    predictor = Predictor(model.SerializeToString())
    arrays = fields_of(data.train.inputs)
    for samples, words in (
        (arrays["image"], "a tuple or a dictionary of image, signal, columns, words"),
        ((arrays["image"],), "expected image, signal, columns, words, got input_0"),
        ({**arrays, "words": arrays["words"][:3]}, "different numbers of samples"),
        ({**arrays, "image": arrays["image"].astype(float)}, "uint8"),
        ({**arrays, "columns": arrays["columns"][:, :2]}, "expected (N, 4), got (20, 2)"),
        ({**arrays, "words": arrays["words"] + 1}, "a token out of range"),
        ({**arrays, "words": ["a text"] * COUNT}, "does not say how texts become tokens"),
    ):
        assert words in refusal(predictor.predict, samples)


def test_files_with_an_array_for_each_input_are_answered(data, model, cli, tmp_path) -> None:
    onnx.save(model, tmp_path / "model.onnx")
    arrays = fields_of(data.train.inputs)
    np.savez(tmp_path / "samples.npz", **arrays)
    code, out, err = cli("infer", f"{tmp_path}/model.onnx", f"{tmp_path}/samples.npz", "--json")
    assert code == 0, err
    answers = json.loads(out)["answers"]
    assert [answer["row"] for answer in answers] == list(range(1, COUNT + 1))
    found = [answer["classes"][0]["class"] for answer in answers]
    assert found == Predictor(tmp_path / "model.onnx").predict(arrays).tolist()
    np.save(tmp_path / "image.npy", arrays["image"])
    np.savez(tmp_path / "less.npz", image=arrays["image"])
    for file, words in (
        ("image.npy", "expected .npz with the arrays image, signal, columns, words"),
        ("less.npz", "not the inputs that the network reads"),
        ("none.npz", "none.npz"),
    ):
        refused(cli("infer", f"{tmp_path}/model.onnx", f"{tmp_path}/{file}"), words)


@pytest.mark.parametrize(
    "entries",
    [
        None,
        "image",
        [{"name": name} for name in NAMES[:3]],
        [{"name": name} for name in reversed(NAMES)],
        [{"name": name, "kind": "image"} for name in NAMES],
        [{"name": name, "kind": "tokens", "tokens": 10**9} for name in NAMES],
        [{"name": name, "kind": "table", "mean": [1e99], "std": [1]} for name in NAMES],
    ],
)
def test_hostile_descriptions_of_the_inputs_are_refused(model, entries) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for entry in changed.metadata_props:
        if entry.key == "hwnas.inputs":
            entry.value = json.dumps(entries)
    assert "property hwnas.in" in refusal(Predictor, changed.SerializeToString())


def test_a_model_with_another_number_of_arguments_is_refused() -> None:
    image, signal = torch.zeros(2, 2, 6, 6), torch.zeros(2, 3, 8)
    expected = "FourInputs.forward: the model takes another number of inputs"
    assert expected in refusal(space_of, FourInputs(), (image, signal))
    assert expected in refusal(space_of, FourInputs(), image)
