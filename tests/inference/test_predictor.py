"""Raw samples in, answers out: prepared as in training, and refused where they do not fit."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.exported import dataset_for, model_for, network_for
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hwnas.deploy.export import export_network, set_metadata
from hwnas.errors import InputError
from hwnas.inference.boxes import decode_boxes, sigmoid
from hwnas.inference.description import TEXT_TASKS
from hwnas.inference.predictor import Predictor, softmax
from hwnas.tasks import TASKS

CLASSES = [name for name, task in TASKS.items() if task.tells_classes and "language" not in name]
OF_SAMPLES = [name for name in CLASSES if name != "segmentation"]


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
    """The predictor of each task's model, made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def predictor(task: str) -> Predictor:
        if task not in made:
            made[task] = Predictor(model_for(task, folder))
        return made[task]

    return predictor


def raw(task: str) -> np.ndarray:
    """The raw test samples of a task as its readers and `dataset_of` have them."""
    return dataset_for(task).test.inputs


def network_outputs(task: str) -> np.ndarray:
    found, network = network_for(task)
    with torch.no_grad():
        return network(found.dataset.normalise(raw(task))).numpy()


@pytest.mark.parametrize("task", sorted(TASKS))
def test_raw_samples_are_prepared_exactly_as_in_training(task, predictors) -> None:
    outputs = predictors(task).outputs(raw(task))
    np.testing.assert_allclose(outputs, network_outputs(task), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("task", sorted(set(TASKS) - set(TEXT_TASKS)))
def test_the_inputs_equal_those_of_training_bit_by_bit(task, predictors) -> None:
    from hwnas.inference.inputs import prepare

    expected = dataset_for(task).normalise(raw(task)).numpy()
    np.testing.assert_array_equal(prepare(raw(task), predictors(task).description), expected)


@pytest.mark.parametrize("task", OF_SAMPLES)
def test_the_predicted_class_is_that_of_the_largest_probability(task, predictors) -> None:
    predictor, expected = predictors(task), network_outputs(task)
    probabilities = predictor.predict_proba(raw(task))
    np.testing.assert_allclose(
        probabilities, torch.from_numpy(expected).softmax(dim=1).numpy(), atol=1e-4
    )
    names = [predictor.classes[index] for index in expected.argmax(axis=1)]
    assert predictor.predict(raw(task)).tolist() == names
    assert predictor.classes == dataset_for(task).classes


def test_values_of_a_regression_have_the_unit_of_the_targets(predictors) -> None:
    found, _ = network_for("regression")
    expected = network_outputs("regression")[:, 0] * found.std + found.mean
    np.testing.assert_allclose(predictors("regression").predict(raw("regression")), expected, 1e-4)


def test_a_segmentation_names_the_class_of_each_pixel(predictors) -> None:
    expected = network_outputs("segmentation").argmax(axis=1)
    found = predictors("segmentation").predict(raw("segmentation"))
    assert (found == expected).mean() > 0.999  # two classes may be equally likely


def test_detections_are_those_of_the_task(predictors) -> None:
    task, _ = network_for("detection")
    expected = task.detections(torch.from_numpy(network_outputs("detection")))
    found = predictors("detection").predict(raw("detection"))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
        np.testing.assert_allclose(one.boxes[0], other.boxes[0], rtol=1e-3, atol=1e-3)


def test_texts_are_cut_into_words_as_in_training(predictors) -> None:
    dataset, predictor = dataset_for("text-classification"), predictors("text-classification")
    tokens = dataset.test.inputs
    texts = [" ".join(dataset.vocabulary[i] for i in row if i) for row in tokens]
    np.testing.assert_array_equal(predictor.outputs(texts), predictor.outputs(tokens))
    np.testing.assert_array_equal(predictor.outputs(np.array(texts)), predictor.outputs(tokens))
    assert predictor.outputs("one text, not a list").shape == (1, 2)


def test_a_language_model_tells_what_follows_the_end_of_a_text(predictors) -> None:
    dataset, predictor = dataset_for("language-modelling"), predictors("language-modelling")
    tokens = dataset.test.inputs[:2]
    texts = ["".join(dataset.vocabulary[i] for i in row) for row in tokens]
    whole = softmax(predictor.outputs(tokens))[:, :, 0, :]
    np.testing.assert_allclose(predictor.predict_proba(texts), whole[:, :, -1], atol=1e-5)
    # A shorter text is padded, and its own last place is looked at.
    shorter = [text[:3] for text in texts]
    np.testing.assert_allclose(predictor.predict_proba(shorter), whole[:, :, 2], atol=1e-5)
    assert set(predictor.predict(texts)) <= set(dataset.vocabulary)


def test_many_samples_are_answered_in_batches_in_their_order(predictors) -> None:
    predictor, samples = predictors("table-classification"), raw("table-classification")
    many = np.concatenate([samples] * 60)
    once = predictor.outputs(samples)
    np.testing.assert_allclose(
        predictor.outputs(many), np.concatenate([once] * 60), rtol=1e-4, atol=1e-5
    )


def test_other_layouts_of_the_same_samples_give_the_same_answers(predictors) -> None:
    images, signals = raw("image-classification"), raw("signal-classification")
    tables = raw("table-classification")
    same = {
        "image-classification": [images, images.transpose(0, 2, 3, 1)],
        "signal-classification": [signals, signals[:, :, 0], signals[:, :, 0].swapaxes(1, 2)],
        "table-classification": [tables, tables[:, :, 0, 0], tables[:, :, 0, 0].tolist()],
    }
    for task, layouts in same.items():
        first, *others = (predictors(task).outputs(layout) for layout in layouts)
        for other in others:
            np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize(
    "task, samples, words",
    [
        ("image-classification", np.zeros((2, 3, 16, 16), np.float32), "uint8, 0 to 255"),
        ("image-classification", np.zeros((2, 3, 8, 8), np.uint8), "(N, 3, 16, 16)"),
        ("image-classification", np.zeros((3, 16, 16), np.uint8), "(N, 3, 16, 16)"),
        ("image-classification", np.zeros((0, 3, 16, 16), np.uint8), "(N, 3, 16, 16)"),
        ("image-classification", [["a", "b"]], "not numbers"),
        ("image-classification", [[1], [1, 2]], "not an array"),
        ("signal-classification", np.full((1, 3, 20), np.nan), "sample 0"),
        ("signal-classification", np.zeros((1, 3, 21)), "(N, 3, 20)"),
        ("table-classification", np.zeros((2, 6)), "(N, 5)"),
        ("table-classification", np.array([[1, 2, 3, 4, np.inf]]), "sample 0"),
        ("audio-keywords", np.zeros((2, 100)), "8000"),
        ("text-classification", np.zeros((2, 5), np.int64), "(N, 8)"),
        ("text-classification", np.full((2, 8), 10**6), "out of range"),
        ("text-classification", [], "no texts"),
        ("language-modelling", [""], "empty text"),
    ],
)
def test_samples_that_do_not_fit_are_refused_in_one_line(task, samples, words, predictors) -> None:
    with pytest.raises(InputError) as caught:
        predictors(task).predict(samples)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tasks_without_probabilities_say_so(predictors) -> None:
    for task in ("regression", "detection"):
        with pytest.raises(InputError, match="no probabilities"):
            predictors(task).predict_proba(raw(task))


@pytest.mark.parametrize(
    "name, value",
    [
        ("task", "telepathy"),
        ("task", ""),
        ("classes", "[1, 2, 3]"),
        ("classes", "["),
        ("classes", "[" * 10_000),
        ("input_mean", "[0, 1]"),
        ("input_mean", "[NaN, 1, 1]"),
        ("input_std", "[0, 1, 1]"),
        ("input_dtype", '"complex128"'),
        ("input_kind", '["image"]'),
        ("words", '"(a+)+$"'),
    ],
)
def test_malformed_properties_are_refused_before_they_are_used(name, value, tmp_path) -> None:
    with pytest.raises(InputError, match=f"property hwnas.{name}"):
        Predictor(model_for("image-classification", tmp_path, **{name: value}))


def test_missing_numbers_become_what_training_filled_in(tmp_path) -> None:
    columns = [f"c{i}" for i in range(5)]
    stated = {"columns": json.dumps(columns), "missing": json.dumps({"c1": 7.5})}
    predictor = Predictor(model_for("table-classification", tmp_path, **stated))
    row = np.arange(5.0)[None]
    filled, missing = row.copy(), row.copy()
    filled[0, 1], missing[0, 1] = 7.5, np.nan
    np.testing.assert_array_equal(predictor.outputs(missing), predictor.outputs(filled))
    missing[0, 2] = np.nan
    with pytest.raises(InputError, match="NaN"):
        predictor.outputs(missing)


@pytest.mark.parametrize("task", ["image-classification", "table-classification"])
def test_models_that_normalise_themselves_get_the_same_raw_samples(task, tmp_path) -> None:
    found, network = network_for(task)
    names = found.input_name, found.output_name
    preprocessing = found.dataset.normalisation
    model = export_network(network, found.dataset.input_shape, names, preprocessing)
    stated = {key: json.dumps(value) for key, value in found.properties().items()}
    set_metadata(model, {"task": task, "preprocess": "true", **stated})
    outputs = Predictor(model.SerializeToString()).outputs(raw(task))
    np.testing.assert_allclose(outputs, network_outputs(task), rtol=1e-4, atol=1e-4)


def test_outputs_of_a_task_of_one_s_own_are_given_as_they_are(tmp_path) -> None:
    predictor = Predictor(model_for("signal-classification", tmp_path, task="own"))
    samples = raw("signal-classification")
    np.testing.assert_array_equal(predictor.predict(samples), predictor.outputs(samples))
    expected = network_outputs("signal-classification")
    np.testing.assert_allclose(predictor.outputs(samples), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="no probabilities"):
        predictor.predict_proba(samples)


def test_predicting_imports_no_pytorch(tmp_path) -> None:
    path = model_for("image-classification", tmp_path)
    code = (
        "import sys, numpy\n"
        "from hwnas.inference.predictor import Predictor\n"
        f"Predictor({str(path)!r}).predict(numpy.zeros((1, 3, 16, 16), numpy.uint8))\n"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


floats = st.floats(-50, 50, width=32)


@given(arrays.arrays(np.float32, (1, 6, 3, 4), elements=floats))
def test_boxes_are_decoded_as_the_definition_says(maps: np.ndarray) -> None:
    """Cell by cell in plain Python: a peak is no smaller than its eight neighbours."""
    (found,) = decode_boxes(maps, (30, 40))
    expected = []
    probability = torch.from_numpy(maps[0, :2]).sigmoid().numpy()
    for class_, row, column in np.ndindex(2, 3, 4):
        around = probability[class_, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        if probability[class_, row, column] < around.max():
            continue
        x, y, log_width, log_height = maps[0, 2:, row, column].astype(float)
        width, height = (10 * np.exp(min(6.0, size)) for size in (log_width, log_height))
        middle = 10 * (column + 0.5 + x), 10 * (row + 0.5 + y)
        box = [middle[0] - width / 2, middle[1] - height / 2]
        box += [middle[0] + width / 2, middle[1] + height / 2]
        expected.append((float(probability[class_, row, column]), class_, box))
    real = found.scores > 0
    assert sorted(found.scores[real]) == pytest.approx(
        sorted(score for score, *_ in expected if score > 0), rel=1e-5
    )
    boxes = np.array([box for score, _, box in expected if score > 0])
    kept = found.boxes[real]
    order, other = np.lexsort(kept.T), np.lexsort(boxes.T)
    np.testing.assert_allclose(kept[order], boxes[other], rtol=1e-4, atol=1e-3)


@given(arrays.arrays(np.float32, (2, 3), elements=st.floats(-1e4, 1e4, width=32)))
def test_probabilities_do_not_overflow(logits: np.ndarray) -> None:
    with np.errstate(over="raise"):
        np.testing.assert_allclose(softmax(logits).sum(axis=1), 1, rtol=1e-5)
        expected = torch.from_numpy(logits).double().sigmoid().numpy()
        np.testing.assert_allclose(sigmoid(logits), expected, atol=1e-6)


def test_questions_are_answered_in_words_of_the_text(predictors) -> None:
    data, predictor = dataset_for("question-answering"), predictors("question-answering")
    tokens = data.test.inputs
    texts = [" ".join(data.vocabulary[i] for i in row if i) for row in tokens]
    pairs = [tuple(text.split(" <separator> ")) for text in texts]
    np.testing.assert_array_equal(predictor.outputs(pairs), predictor.outputs(tokens))
    answers = predictor.predict(pairs).tolist()
    assert answers == predictor.predict(tokens).tolist()
    assert all(answer in text for answer, text in zip(answers, texts, strict=True))
    with pytest.raises(InputError, match=r"sample 1: not a pair of texts.*\(question, text\)"):
        predictor.predict([pairs[0], "a question alone"])
    with pytest.raises(InputError, match="no probabilities"):
        predictor.predict_proba(pairs)


def test_the_best_of_a_dialogue_s_candidates_is_named(predictors) -> None:
    data, predictor = dataset_for("next-reply"), predictors("next-reply")
    tokens = data.test.inputs
    texts = [" ".join(data.vocabulary[i] for i in row if i) for row in tokens]
    pairs = []
    for text in texts:
        context, replies = text.split(" <separator> ")
        pairs.append((context, [r.strip() for r in replies.split("<reply>") if r.strip()]))
    np.testing.assert_array_equal(predictor.outputs(pairs), predictor.outputs(tokens))
    scores = [o[0, 0][t == data.vocabulary.index("<reply>")] for o, t in
              zip(predictor.outputs(tokens), tokens, strict=True)]  # fmt: skip
    assert predictor.predict(pairs).tolist() == [int(s.argmax()) for s in scores]
    with pytest.raises(InputError, match="too few candidates"):
        predictor.predict([("hello", ["one reply"])])
    with pytest.raises(InputError, match="at most 40 words"):
        predictor.predict([("hello " * 40, ["one", "two"])])
