"""The learning curve of the training, as a report shows it."""

from __future__ import annotations

import json

from helpers.run_folders import WrittenRun


def test_learning_curve_compares_training_and_test_samples(run: WrittenRun) -> None:
    page = run.page()
    assert "Learning curve" in page.drawings()
    assert (
        "Accuracy during the training, on 1,000 random training samples and 250 random test "
        "samples." in page.text
    )
    assert "training samples: from 26.67 at step 100 to 93.33 at step 500" in run.html()
    assert "500 93.33 83" in page.text
    assert "Nothing was decided by the test samples" in page.text


def test_loss_has_records_without_scores_and_scores_their_own_steps(run: WrittenRun) -> None:
    records = [json.loads(line) for line in run.folder.history.read_text().splitlines()]
    scored = [record for record in records if "test_score" in record]
    assert 0 < len(scored) < sum(record["event"] == "train" for record in records)
    for record in scored:
        del record["train_score"]
    run.folder.history.write_text("\n".join(map(json.dumps, records)))
    page = run.page()
    assert "Learning curve" not in page.drawings()
    assert "Training loss" in page.drawings()


def test_pixels_are_counted_where_classes_are_segmented(run: WrittenRun) -> None:
    metrics = json.loads(run.folder.metrics.read_text())
    metrics |= {"metric": "mean_iou", "per_class": [{"class": "sky", "iou": 0.25, "n": 4000}]}
    run.folder.metrics.write_text(json.dumps(metrics))
    assert "class IoU pixels sky 25 % 4,000" in run.page().text
