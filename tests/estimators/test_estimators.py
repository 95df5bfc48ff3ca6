"""The estimators on small data: what they learn, say, keep and refuse."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import numpy as np
import onnxruntime
import pytest
from helpers.estimators import IMAGES, ROWS, SEQUENCES
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import hwnas
from hwnas.estimators import (
    ImageClassifier,
    SignalClassifier,
    TabularClassifier,
    TabularRegressor,
    TextClassifier,
)
from hwnas.pipeline.result import load

N = 120
rng = np.random.default_rng(0)
NAMES = np.array(["low", "high"])
CODES = rng.integers(0, 2, N)
BRIGHT = (rng.integers(0, 100, (N, 8, 8)) + 120 * CODES[:, None, None]).astype(np.uint8)
WAVES = rng.normal(size=(N, 2, 16)) + 2.0 * CODES[:, None, None]
TABLE = rng.normal(size=(N, 4)) * [1, 5, 0.1, 100] + CODES[:, None] * [2, 10, 0.2, 200]
TEXTS = [("a fine day" if code else "rain and cold") + " again" * (i % 3) for i, code in
         enumerate(CODES)]  # fmt: skip
VALUES = 1000 + 50 * TABLE[:, 0] + 3 * TABLE[:, 1]

CASES = {
    "images": (ImageClassifier(settings=IMAGES), BRIGHT, NAMES[CODES]),
    "signals": (SignalClassifier(settings=SEQUENCES), WAVES, NAMES[CODES]),
    "texts": (TextClassifier(settings=SEQUENCES), TEXTS, NAMES[CODES]),
    "rows": (TabularClassifier(settings=ROWS), TABLE, 3 + 4 * CODES),
    "values": (TabularRegressor(settings=(*ROWS, "train.epochs=40")), TABLE, VALUES),
}
SLOW = ("signals", "texts", "rows")
EACH = [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES]
CLASSIFIERS = [case for case in EACH if case.values != ("values",)]


@pytest.fixture(scope="module")
def fitted():
    """The fitted estimator of each case, made when it is first asked for."""
    made = {}

    def estimator(case: str):
        if case not in made:
            unfitted, samples, targets = CASES[case]
            with warnings.catch_warnings():
                # A verdict may be inconclusive on a machine that is busy.
                warnings.filterwarnings("ignore", "the check of the model")
                made[case] = clone(unfitted).fit(samples, targets)
        return made[case]

    return estimator


@pytest.mark.parametrize("case", EACH)
def test_it_learns_what_is_easy_to_learn(case, fitted) -> None:
    _, samples, targets = CASES[case]
    assert fitted(case).score(samples, targets) > 0.85


@pytest.mark.parametrize("case", EACH)
def test_it_says_how_fast_and_how_good_it_is(case, fitted) -> None:
    estimator = fitted(case)
    assert estimator.verdict_ == estimator.check_["verdict"]
    assert estimator.latency_ms_ == estimator.check_["measured"]["value_ms"]
    assert 0 <= estimator.test_score_ <= 1


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_classes_have_the_type_and_order_of_the_targets(case, fitted) -> None:
    estimator, (_, samples, targets) = fitted(case), CASES[case]
    assert is_classifier(estimator)
    np.testing.assert_array_equal(estimator.classes_, np.unique(targets))
    probabilities = estimator.predict_proba(samples[:7])
    assert probabilities.shape == (7, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    predicted = estimator.predict(samples[:7])
    assert predicted.dtype == estimator.classes_.dtype
    np.testing.assert_array_equal(predicted, estimator.classes_[probabilities.argmax(axis=1)])


def test_values_have_the_unit_of_the_targets(fitted) -> None:
    estimator = fitted("values")
    assert is_regressor(estimator)
    assert np.abs(estimator.predict(TABLE) - VALUES).mean() < 0.5 * VALUES.std()


@pytest.mark.parametrize("case", EACH)
def test_a_copy_through_pickle_predicts_the_same(case, fitted) -> None:
    estimator, (_, samples, _) = fitted(case), CASES[case]
    before = estimator.predict(samples[:5])
    copy = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(copy.predict(samples[:5]), before)


def test_the_exported_file_is_the_model(fitted, tmp_path) -> None:
    path = fitted("images").export(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["hwnas.task"] == "image-classification"
    assert properties["hwnas.classes"] == '["high", "low"]'


@pytest.mark.parametrize("case", CASES)
def test_clones_and_parameters_follow_the_conventions(case) -> None:
    estimator = CASES[case][0]
    copy = clone(estimator.set_params(minutes=3, budget_ms=0.7))
    assert copy.get_params() == estimator.get_params()
    assert (copy.minutes, copy.budget_ms) == (3, 0.7)
    assert not hasattr(copy, "onnx_")
    estimator.set_params(minutes=5.0, budget_ms=None)
    with pytest.raises(NotFittedError):
        copy.predict(CASES[case][1])


@pytest.mark.slow
def test_it_works_at_the_end_of_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), TabularClassifier(settings=ROWS))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the check of the model")
        pipeline.fit(TABLE, CODES)
    assert pipeline.score(TABLE, CODES) > 0.85


@pytest.mark.slow
def test_a_folder_that_is_named_keeps_the_run(tmp_path) -> None:
    folder = tmp_path / "kept"
    estimator = SignalClassifier(settings=SEQUENCES, out=folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the check of the model")
        estimator.fit(WAVES.swapaxes(1, 2), NAMES[CODES])  # times first
    result = load(folder)
    assert result.report.exists()
    np.testing.assert_array_equal(result.predict(WAVES[:5]), estimator.predict(WAVES[:5]))
    with pytest.raises(ValueError, match="holds something"):
        clone(estimator).fit(WAVES, CODES)
    assert load(folder).verdict == estimator.verdict_


UNSUITABLE = [
    (ImageClassifier(), BRIGHT[:, 0], CODES, "image"),
    (ImageClassifier(), BRIGHT, CODES[:-1], "numbers of inputs and targets"),
    (ImageClassifier(), BRIGHT, np.zeros(N), "at least two classes"),
    (ImageClassifier(), np.full((N, 8, 8), np.nan), CODES, "NaN"),
    (ImageClassifier(minutes=0), BRIGHT, CODES, "minutes"),
    (ImageClassifier(budget_ms=-1), BRIGHT, CODES, "budget_ms"),
    (ImageClassifier(test_fraction=0), BRIGHT, CODES, "fraction"),
    (ImageClassifier(settings=["train.epoch=3"]), BRIGHT, CODES, "train.epoch"),
    (SignalClassifier(), WAVES[:, 0], CODES, "signal"),
    (SignalClassifier(), np.zeros((N, 4, 4)), CODES, "channels"),
    (TextClassifier(), "one text", CODES, "not a list of texts"),
    (TextClassifier(), [1, 2], [0, 1], "int"),
    (TextClassifier(), TEXTS, CODES[:-1], "numbers of inputs and targets"),
    (TextClassifier(), [], [], "not a list of texts"),
    (TabularClassifier(), TABLE, VALUES, "Unknown label type"),
    (TabularClassifier(), TABLE[:, :0], CODES, "0 feature"),
    (TabularRegressor(), TABLE, np.full(N, np.inf), "infinity"),
    (TabularRegressor(), TABLE, np.full(N, 7.0), "equal"),
]


@pytest.mark.parametrize("estimator, samples, targets, words", UNSUITABLE)
def test_what_cannot_be_used_is_refused_in_one_line(
    estimator, samples, targets, words, tmp_path, monkeypatch
) -> None:
    def measured(*arguments, **options) -> None:
        pytest.fail("found only after something was measured")

    monkeypatch.setattr("hwnas.estimators.fitting.profile", measured)
    estimator = clone(estimator).set_params(out=tmp_path / "run")
    with pytest.raises(ValueError, match=words):
        estimator.fit(samples, targets)
    assert not (tmp_path / "run").exists()


OTHERS = [
    ("images", BRIGHT[:, :7]),
    ("images", BRIGHT.astype(float)),
    pytest.param("signals", WAVES[:, :1], marks=pytest.mark.slow),
    pytest.param("texts", [3], marks=pytest.mark.slow),
    ("values", TABLE[:, :3]),
]


@pytest.mark.parametrize("case, samples", OTHERS)
def test_samples_of_another_shape_are_refused(case, samples, fitted) -> None:
    with pytest.raises(ValueError, match="shape|type|feature|strings"):
        fitted(case).predict(samples)


def test_they_are_public_names() -> None:
    assert hwnas.ImageClassifier is ImageClassifier
    assert hwnas.TextClassifier is TextClassifier


def test_without_scikit_learn_one_line_says_how_to_get_it() -> None:
    code = (
        "import sys\n"
        "sys.modules['sklearn'] = None\n"
        "import hwnas\n"
        "try: hwnas.ImageClassifier\n"
        "except hwnas.HwnasError as error: print(error.exit_code, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("3 hwnas.estimators: scikit-learn is not installed")
    assert "hwnas[estimators]" in done.stdout
