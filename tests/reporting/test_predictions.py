"""Results on the test samples: the confusion matrix, the mistakes, and samples to look at."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from helpers.run_folders import HOSTILE, WrittenRun, change, write_predictions
from PIL import Image

from hwnas.errors import InputError
from hwnas.reporting.confusion_chart import MAX_CLASSES, MAX_NAMED, confusion_chart
from hwnas.reporting.predictions import Predictions
from hwnas.tasks.proportions import wilson_interval


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


class TestConfusionMatrix:
    def test_marks_state_counts_and_shares(self) -> None:
        counts = np.array([[8, 2, 0], [0, 0, 0], [1, 0, 3]])
        svg = confusion_chart("Confusion", ["a", "b", "c"], counts)
        assert [
            words.replace("\u00a0", " ") for words in re.findall("<title>(.*?)</title>", svg)
        ] == [
            "a: 8 of 10 (80 %) correct",
            "a taken for b: 2 of 10 (20 %)",
            "c taken for a: 1 of 4 (25 %)",
            "c: 3 of 4 (75 %) correct",
        ]
        assert "<desc>11 of 14 samples are on the diagonal.</desc>" in svg
        assert re.findall(r'class="small"[^>]*>(\d+)<', svg) == ["80", "20", "25", "75"]

    @pytest.mark.parametrize("classes", [1, 2, MAX_NAMED, MAX_NAMED + 1, MAX_CLASSES])
    def test_all_shapes_are_in_the_drawing(self, classes: int) -> None:
        counts = np.ones((classes, classes), dtype=int)
        root = ElementTree.fromstring(confusion_chart("x", ["a long name"] * classes, counts))
        _, _, width, height = map(float, root.get("viewBox", "").split())
        squares = [
            r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("fill-opacity")
        ]
        assert len(squares) == classes**2
        for square in squares:
            x, y, side = (float(square.get(key, "")) for key in ("x", "y", "width"))
            assert 0 <= x <= x + side <= width
            assert 0 <= y <= y + side <= height
        names = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
        assert names.count("a long name") == (2 * classes if classes <= MAX_NAMED else 0)

    def test_many_classes_have_a_table_of_mistakes_only(
        self, run: WrittenRun, rng: np.random.Generator
    ) -> None:
        classes = [f"class {i}" for i in range(MAX_CLASSES + 1)]
        write_predictions(run.folder, rng, classes)
        page = run.page()
        assert "Confusion matrix" not in page.drawings()
        assert "class 0 class 1 2 " in page.text


def test_mistakes_are_sorted_by_their_number(run: WrittenRun, rng: np.random.Generator) -> None:
    targets = np.repeat([0, 1, 2], 100)
    predicted = targets.copy()
    predicted[:7] = 1
    predicted[200:230] = 0
    write_predictions(run.folder, rng, targets=targets, predicted=predicted)
    text = run.page().text
    assert "sandal trouser 30 30 % trouser ankle boot 7 7 % Metrics by class" in text


def test_images_of_right_and_wrong_predictions_are_in_the_page(
    run: WrittenRun, rng: np.random.Generator
) -> None:
    write_predictions(run.folder, rng)
    stored = Predictions.read(run.folder.predictions)
    assert stored is not None and stored.images is not None
    page = run.page()
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 24
    for attributes, image in zip(images, stored.images, strict=True):
        data = base64.b64decode(str(attributes["src"]).partition(",")[2])
        with Image.open(io.BytesIO(data)) as png:
            assert np.array_equal(np.asarray(png), image.transpose(1, 2, 0))
        assert (attributes["width"], attributes["height"]) == ("6", "8")
    assert re.fullmatch(r"ankle boot, \d+\u00a0%", str(images[0]["alt"]))
    assert re.fullmatch("trouser \u2192 ankle boot, \\d+\u00a0%", str(images[12]["alt"]))


def test_texts_of_right_and_wrong_predictions_are_in_the_page(
    run: WrittenRun, rng: np.random.Generator
) -> None:
    texts = np.array([HOSTILE, *(f"text {i}" for i in range(23))])
    write_predictions(run.folder, rng, sample_images=None, sample_texts=texts)
    page = run.page()
    assert HOSTILE in page.text
    assert re.search("text 12 ankle boot \u2192 sandal, \\d+ %|text 12 \\w+ \u2192", page.text)
    assert "img" not in {tag for tag, _ in page.elements}


def test_largest_images_and_many_classes_give_a_page_below_a_megabyte(
    run: WrittenRun, rng: np.random.Generator
) -> None:
    images = rng.integers(0, 256, (24, 3, 64, 64), dtype=np.uint8)
    classes = [f"{HOSTILE} {i}" for i in range(MAX_CLASSES)]
    predicted = rng.integers(0, MAX_CLASSES, 300)
    write_predictions(run.folder, rng, classes, predicted=predicted, sample_images=images)
    assert len(run.html().encode()) > 300_000
    run.page()


def test_predictions_without_samples_are_shown(run: WrittenRun, rng: np.random.Generator) -> None:
    none = np.array([], dtype=np.int64)
    write_predictions(run.folder, rng, samples=none, sample_images=None)
    page = run.page()
    assert "Confusion matrix" in page.drawings()
    assert "Predicted correctly" not in page.text


@pytest.mark.parametrize(
    "arrays",
    [
        {"targets": None},
        {"targets": np.zeros(299, np.int64)},
        {"targets": np.full(300, 3)},
        {"predicted": np.full(300, -1)},
        {"predicted": np.zeros(300, np.float32)},
        {"confidence": np.zeros(300, np.int64)},
        {"samples": np.full(24, 300)},
        {"samples": np.arange(25)},
        {"sample_images": np.zeros((24, 2, 8, 6), np.uint8)},
        {"sample_images": np.zeros((24, 3, 8, 6), np.float32)},
        {"sample_images": np.zeros((24, 3, 8, 1000), np.uint8)},
        {"sample_images": np.zeros((23, 3, 8, 6), np.uint8)},
        {"sample_texts": np.array(["one"])},
    ],
)
def test_inconsistent_predictions_are_an_error_that_names_the_file(
    run: WrittenRun, rng: np.random.Generator, arrays: dict[str, np.ndarray | None]
) -> None:
    write_predictions(run.folder, rng, **arrays)
    with pytest.raises(InputError, match=r"predictions\.npz") as raised:
        run.html()
    assert "\n" not in str(raised.value)


def test_file_that_is_no_archive_is_an_error(run: WrittenRun) -> None:
    run.folder.predictions.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"predictions\.npz"):
        run.html()


class TestIntervalOfTheAccuracy:
    @pytest.mark.parametrize(
        "share, samples, low, high",
        # Newcombe, Statistics in Medicine 17, 1998, table I, method 3.
        [(81 / 263, 263, 0.2553, 0.3662), (15 / 148, 148, 0.0624, 0.1605), (0.0, 20, 0.0, 0.1611),
         (1 / 29, 29, 0.0061, 0.1718)],
    )  # fmt: skip
    def test_wilson_interval(self, share: float, samples: int, low: float, high: float) -> None:
        assert wilson_interval(share, samples) == pytest.approx((low, high), abs=1e-4)

    def test_accuracy_has_its_interval(self, run: WrittenRun) -> None:
        text = run.page().text
        assert (
            "The accuracy on the test samples is 87.3 % (95 % confidence interval 85.1 to 89.2)"
            in text
        )
        # The metrics of the trained network count three classes of 100 samples.
        low, high = (f"{100 * end:.1f}" for end in wilson_interval(0.872, 300))
        assert f"Accuracy 87.2 % (95 % CI {low} to {high})" in text

    def test_other_metrics_have_none(self, run: WrittenRun) -> None:
        change(
            run.folder.check, lambda c: c.update(metric="mean_iou", mean_iou={"onnx": 0.5, "n": 9})
        )
        change(run.folder.metrics, lambda m: m.update(metric="mean_iou", mean_iou=0.5))
        text = run.page().text
        assert "The mean IoU on the test samples is 50 %." in text
        assert "Wilson" not in text
