"""The scripts of the gallery in a short form: tiny data, a few steps, made-up latencies."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.tiny import table_of
from torch import Tensor

import hwnas
from hwnas.data.inputs import InputTensors
from hwnas.pipeline.result import Result

EXAMPLES = Path(__file__).parents[2] / "examples"
LINES = 120
SHORT = {
    "search.batch_size": 8,
    "search.candidates": 2,
    "search.max_measured": 1,
    "search.ranking_images": 20,
    "search.recalibration_batches": 1,
    "train.batch_size": 16,
    "latency.measure_seconds": 3.0,
    "check.measure_seconds": 20.0,
    "check.min_accuracy": 0.001,
    "threads": 1,
}
UNLEARNED = SHORT | {"check.min_accuracy": 0.0}
"""For metrics that a short training may leave at 0."""


def example(name: str) -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def short_run(script: ModuleType, inputs: InputTensors, folder: Path, **given: Any) -> Result:
    """Run a script on a few samples, with made-up latencies and a budget that every network keeps.

    Args:
        script: of the gallery.
        inputs: a batch as its network reads it; several inputs are a tuple.
        folder: the run is made in it.
        given: further arguments of its `main`.
    """
    table = folder / "table.json"
    table_of(hwnas.space_of(script.Network(), inputs)).save(table)
    result = script.main(
        str(folder / "run"),
        **{
            "steps": 4,
            "epochs": 1,
            "budget_ms": 1e6,
            "table": table,
            "settings": SHORT,
            "show_progress": False,
            **given,
        },
    )
    assert isinstance(result, Result)
    assert result.verdict == "pass"
    return result


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_has_at_most_120_lines_and_says_how_it_is_run(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES
    assert f"python examples/{path.name}" in text


SPACES = {
    "sensor_signal": (torch.zeros(2, 3, 96), (2, 4), 72),
    "medical_image": (torch.zeros(2, 1, 32, 32), (2, 3), 102),
    "image_and_table": ((torch.zeros(2, 1, 16, 16), torch.zeros(2, 3)), (2, 2), 162),
    "recommender": (torch.full((2, 2), 199), (2, 2), 27),
    "named_entities": (torch.full((2, 12), 29), (2, 3, 12), 34),
    "speech_like_ctc": (torch.zeros(2, 12, 64), (2, 5, 32), 27),
    "translation": ((torch.full((2, 6), 27),) * 2, (2, 28, 6), 12),
}
"""Inputs, the shape of the outputs, and the number of networks of each script that trains."""


@pytest.mark.parametrize("name", SPACES)
def test_all_choices_of_a_network_are_found_and_a_random_network_runs(name: str) -> None:
    inputs, shape, size = SPACES[name]
    space = hwnas.space_of(example(name).Network(), inputs)
    assert space.size() == size
    network = space.module(space.sample(np.random.default_rng(0)))
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    assert network(*given).shape == shape


@pytest.mark.slow
def test_a_sensor_signal_is_told_by_1d_convolutions(tmp_path) -> None:
    script = example("sensor_signal")
    result = short_run(script, torch.zeros(1, 3, script.TIMES), tmp_path, samples=120)
    inputs, _ = script.signals(5, seed=2)
    assert set(result.predict(inputs)) <= {"0", "1", "2", "3"}


def test_a_policy_learns_by_a_function_of_its_own() -> None:
    pytest.importorskip("gymnasium")
    script = example("cartpole")
    torch.manual_seed(0)
    policy = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    before = script.tested(policy, seed=1)
    assert script.trained(policy, generations=4, policies=16) > 2 * before


@pytest.mark.slow
def test_a_policy_is_searched_under_a_budget(tmp_path) -> None:
    pytest.importorskip("gymnasium")
    script = example("cartpole")
    result = short_run(script, torch.zeros(1, 4), tmp_path, generations=1, epochs=None)
    assert result.score == pytest.approx(script.tested(result.model, seed=1000), abs=1e-6)


@pytest.mark.slow
def test_images_of_16_bits_are_read_as_they_were_written(tmp_path) -> None:
    script = example("medical_image")
    images, _ = script.images(5, seed=2)
    assert images.dtype == np.uint16 and images.max() > 2**8
    settings = SHORT | {"export.preprocess": True}
    inputs = torch.zeros(1, 1, script.SIDE, script.SIDE)
    result = short_run(script, inputs, tmp_path, samples=120, settings=settings)
    assert set(result.predict(images)) <= {"0", "1", "2"}
    assert onnx_input(result).type == "tensor(uint16)"


@pytest.mark.slow
def test_a_picture_and_a_table_are_two_inputs_of_the_exported_model(tmp_path) -> None:
    script = example("image_and_table")
    samples, targets = script.parts(40, seed=2)
    inputs = torch.zeros(1, 1, script.SIDE, script.SIDE), torch.zeros(1, 3)
    result = short_run(script, inputs, tmp_path, samples=120)
    assert set(result.predict(samples)) <= {"0", "1"}
    session = onnxruntime.InferenceSession(
        result.folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    assert [given.name for given in session.get_inputs()] == ["picture", "columns"]
    dataset = hwnas.dataset_of((samples, targets)).with_input_names(["picture", "columns"])
    with torch.no_grad():
        assert result.model(*dataset.normalise(dataset.train.inputs)).shape[1] == 2
    tuned = result.fine_tune((samples, targets), epochs=1, show_progress=False)
    assert tuned.verdict == "pass"
    program = result.export(tmp_path / "model.pt2")
    assert torch.export.load(program).module()(*inputs).shape == (1, 2)


@pytest.mark.slow
def test_a_recommender_tells_pairs_of_tokens(tmp_path) -> None:
    script = example("recommender")
    pairs = script.ratings(5000).test.inputs
    assert pairs.shape == (1000, 2)
    result = short_run(script, torch.from_numpy(pairs[:2]).clamp(min=199), tmp_path, samples=200)
    assert set(result.predict(pairs[:5])) <= {"yes", "no"}


@pytest.mark.slow
def test_a_word_is_labelled_by_the_words_around_it(tmp_path) -> None:
    script = example("named_entities")
    words, labels = script.sentences(20, seed=2)
    last = len(script.VOCABULARY) - 1
    inputs = torch.full((1, script.LENGTH), last)
    result = short_run(script, inputs, tmp_path, samples=120, settings=UNLEARNED)
    with torch.no_grad():
        outputs = result.model(torch.from_numpy(words))
    assert outputs.shape == (20, len(script.LABELS), script.LENGTH)
    assert result.metric == "f1" and result.task == "sequence-labelling"
    named = np.array(script.LABELS)[outputs.argmax(dim=1).numpy()]
    assert (result.predict(words) == named).mean() > 0.99
    assert script.f1(one_hot(labels, 3), torch.from_numpy(labels)) == 1


def one_hot(targets: np.ndarray, classes: int) -> Tensor:
    """Logits that name the targets (N, L)."""
    return torch.nn.functional.one_hot(torch.from_numpy(targets), classes).transpose(1, 2)


def onnx_input(result: Result) -> Any:
    """The input of the exported model."""
    session = onnxruntime.InferenceSession(
        result.folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    return session.get_inputs()[0]


def test_greedy_decoding_and_the_edit_distance_of_sounds() -> None:
    script = example("speech_like_ctc")
    heard = torch.tensor([[0, 0, script.BLANK, 0, 1, 1, script.BLANK]])
    outputs = torch.nn.functional.one_hot(heard, script.BLANK + 1).transpose(1, 2)
    assert script.decoded(outputs) == [[0, 0, 1]]
    for found, truth, expected in (([0, 0, 1], [0, 1], 1), ([], [1, 2], 2), ([3, 1], [1, 3], 2)):
        assert script.edits(found, truth) == expected


@pytest.mark.slow
def test_sounds_are_learned_by_ctc(tmp_path) -> None:
    script = example("speech_like_ctc")
    inputs = torch.zeros(1, script.BANDS, script.FRAMES)
    result = short_run(script, inputs, tmp_path, samples=120, settings=UNLEARNED)
    assert result.metric == "sounds_right"


@pytest.mark.slow
def test_the_halves_of_a_translator_are_two_onnx_files(tmp_path) -> None:
    script = example("translation")
    # The source has words of its language alone.
    words = 1 + len(script.MEANING), len(script.VOCABULARY) - 1
    inputs = tuple(torch.full((1, script.LENGTH), word) for word in words)
    result = short_run(script, inputs, tmp_path, samples=120, settings=UNLEARNED)
    source = script.sentences(10, seed=3)[0]["source"]
    words = np.pad(script.translated(result.folder, source), ((0, 0), (1, 0)))[:, :-1]
    # Given what greedy decoding has found so far, the whole network finds the same next words.
    with torch.no_grad():
        outputs = result.model(torch.from_numpy(source), torch.from_numpy(words))
    found = outputs.argmax(dim=1).numpy()
    assert (found[:, :-1] == words[:, 1:]).all()
