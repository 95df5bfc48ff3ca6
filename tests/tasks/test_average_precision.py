"""Average precision against COCO's evaluation code and against values computed by hand."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from hwnas.inference.boxes import Detections
from hwnas.tasks.average_precision import Objects, average_precisions, box_iou


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.uniform(0, 20, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(2, 12, (count, 2))], axis=1)


def random_detections(seed: int) -> tuple[list[Detections], list[Objects]]:
    """Return objects of two classes, and detections of which some are close to the objects."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(8):
        objects = Objects(boxes(rng, n := int(rng.integers(0, 5))), rng.integers(0, 2, n))
        near = objects.boxes + rng.normal(0, 0.7, (n, 4))
        guesses = np.concatenate([near, boxes(rng, 3)])
        guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2] + 0.5)
        classes = np.concatenate([objects.classes, rng.integers(0, 2, 3)])
        found.append(Detections(guesses, rng.uniform(0, 1, n + 3), classes))
        truth.append(objects)
    return found, truth


def by_coco(found: list[Detections], truth: list[Objects], class_: int) -> np.ndarray:
    """Return the average precision at each threshold according to pycocotools."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    annotations, results = [], []
    for image, (detections, objects) in enumerate(zip(found, truth, strict=True)):
        for box, one in zip(objects.boxes, objects.classes, strict=True):
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": int(one)}
            size = box[2:] - box[:2]
            more = {"bbox": [*box[:2], *size], "area": float(size.prod()), "iscrowd": 0}
            annotations.append(entry | more)
        for box, score, one in zip(
            detections.boxes, detections.scores, detections.classes, strict=True
        ):
            entry = {"image_id": image, "category_id": int(one), "score": float(score)}
            results.append(entry | {"bbox": [*box[:2], *(box[2:] - box[:2])]})
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = coco.COCO()
        dataset.dataset = {
            "images": [{"id": i} for i in range(len(truth))],
            "annotations": annotations,
            "categories": [{"id": i} for i in range(2)],
        }
        dataset.createIndex()
        judge = evaluation.COCOeval(dataset, dataset.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
    # (thresholds, recalls, classes, areas, numbers of detections)
    return judge.eval["precision"][:, :, class_, 0, -1].mean(axis=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("class_", [0, 1])
def test_average_precision_matches_pycocotools(seed: int, class_: int) -> None:
    found, truth = random_detections(seed)
    expected = by_coco(found, truth, class_)
    assert 0 < expected.mean() < 1
    np.testing.assert_allclose(average_precisions(found, truth, class_), expected, atol=1e-9)


def test_box_iou_of_known_boxes() -> None:
    first = np.array([[0.0, 0, 2, 2], [5, 5, 6, 6]])
    second = np.array([[1.0, 0, 3, 2], [0, 0, 2, 2]])
    np.testing.assert_allclose(box_iou(first, second), [[2 / 6, 1], [0, 0]])


def test_average_precision_of_one_found_object_after_a_false_positive() -> None:
    """One of two objects is found after a false positive: precision 1/2 up to recall 1/2."""
    truth = [Objects(np.array([[0.0, 0, 4, 4], [10, 10, 14, 14]]), np.array([0, 0]))]
    wrong, right = [20.0, 20, 24, 24], [0.0, 0, 4, 4]
    found = [Detections(np.array([wrong, right]), np.array([0.9, 0.8]), np.array([0, 0]))]
    # 51 of the 101 recalls are at most 1/2.
    np.testing.assert_allclose(average_precisions(found, truth, 0), np.full(10, 0.5 * 51 / 101))


def test_average_precision_without_objects_or_without_detections() -> None:
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    empty = Objects(np.zeros((0, 4)), np.zeros(0, int))
    assert average_precisions([nothing], [empty], 0) is None
    one = Objects(np.array([[0.0, 0, 1, 1]]), np.array([0]))
    np.testing.assert_array_equal(average_precisions([nothing], [one], 0), np.zeros(10))
