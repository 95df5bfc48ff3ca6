"""`hwnas infer`: files of every task in, answers out, and one line for each that is wrong."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.command_line import refused
from helpers.exported import dataset_for, model_for, network_for
from PIL import Image

from hwnas.data.sounds import RATE, log_mel, read_sound


def answers(result: tuple[int, str, str], code: int = 0) -> list[dict]:
    found, out, err = result
    assert found == code, err
    return json.loads(out)["answers"]


def logits(task: str, inputs: np.ndarray) -> np.ndarray:
    found, network = network_for(task)
    with torch.no_grad():
        return network(found.dataset.normalise(inputs)).numpy()


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Images of the size of the classifier's."""
    pixels = dataset_for("image-classification").test.inputs[:3]
    files = [tmp_path / f"photo{index}.png" for index in range(3)]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(file)
    return files


def test_images_get_the_classes_of_the_network(cli, tmp_path, photos) -> None:
    model = model_for("image-classification", tmp_path)
    found = answers(cli("infer", str(model), *map(str, photos), "--top", "3", "--json"))
    expected = logits("image-classification", dataset_for("image-classification").test.inputs[:3])
    probabilities = torch.from_numpy(expected).softmax(dim=1).numpy()
    assert [answer["file"] for answer in found] == [str(photo) for photo in photos]
    for answer, row in zip(found, probabilities, strict=True):
        told = {item["class"]: item["probability"] for item in answer["classes"]}
        assert list(told.values()) == sorted(told.values(), reverse=True)
        assert list(told) == [("cat", "dog", "owl")[i] for i in np.argsort(-row)]
        assert sum(told.values()) == pytest.approx(1)
        assert max(told.values()) == pytest.approx(row.max(), abs=1e-4)


def test_each_line_of_the_text_names_its_file(cli, tmp_path, photos) -> None:
    model = model_for("image-classification", tmp_path)
    code, out, err = cli("infer", str(model), *map(str, photos))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(photo) for photo in photos]
    assert all(line.endswith("%") and line.split()[-2] in ("cat", "dog", "owl") for line in lines)


def test_wrong_files_cost_a_line_each_while_the_others_are_judged(cli, tmp_path, photos) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(photos[0].read_bytes()[:100])
    wrong = [tmp_path / "text.png", tmp_path / "cut.png", tmp_path / "missing.png", tmp_path]
    given = [wrong[0], photos[0], *wrong[1:], photos[1]]
    model = model_for("image-classification", tmp_path)
    code, out, err = cli("infer", str(model), *map(str, given))
    assert code == 2
    assert len(out.splitlines()) == 2
    lines = err.splitlines()
    assert len(lines) == len(wrong)
    for line, file in zip(lines, wrong, strict=True):
        assert line.startswith("hwnas: ")
        assert str(file) in line
    document = json.loads(cli("infer", str(model), *map(str, given), "--json")[1])
    assert [error["file"] for error in document["errors"]] == [str(file) for file in wrong]
    assert len(document["answers"]) == 2


def test_pipes_are_refused_and_samples_of_another_type_named_by_their_file(cli, tmp_path) -> None:
    model = str(model_for("image-classification", tmp_path))
    os.mkfifo(tmp_path / "pipe.png")
    code, _, err = cli("infer", model, str(tmp_path / "pipe.png"))
    assert (code, "pipe.png: not a regular file" in err) == (2, True)
    Image.fromarray(np.full((16, 16), 9, np.uint16)).save(tmp_path / "deep.png")
    np.save(tmp_path / "none.npy", np.zeros((0, 3, 16, 16), np.uint8))
    for name in ("deep.png", "none.npy"):
        code, _, err = cli("infer", model, str(tmp_path / name))
        assert (code, f"{name}: inputs: samples of another" in err) == (2, True), err


def test_boxes_are_in_pixels_of_the_file(cli, tmp_path) -> None:
    """An image of twice the size, in a wide frame, has the same boxes moved and doubled."""
    image = dataset_for("detection").test.inputs[0].transpose(1, 2, 0)
    side = len(image)
    small, wide = tmp_path / "small.png", tmp_path / "wide.png"
    Image.fromarray(image).save(small)
    frame = np.zeros((2 * side, 2 * side + 20, 3), np.uint8)
    frame[:, 10:-10] = image.repeat(2, axis=0).repeat(2, axis=1)
    Image.fromarray(frame).save(wide)
    model = model_for("detection", tmp_path)
    arguments = ("infer", str(model), str(small), str(wide), "--threshold", "0", "--json")
    first, second = answers(cli(*arguments))
    expected = network_for("detection")[0].detections(
        torch.from_numpy(logits("detection", image.transpose(2, 0, 1)[None].copy()))
    )[0]
    np.testing.assert_allclose(first["boxes"][0]["box"], expected.boxes[0], atol=0.06)
    moved = 2 * np.array(first["boxes"][0]["box"]) + [10, 0, 10, 0]
    nearest = min(np.abs(moved - box["box"]).max() for box in second["boxes"])
    assert nearest < 1.0
    assert "nothing found" in cli("infer", str(model), str(small), "--threshold", "1")[1]
    text = cli("infer", str(model), str(small), "--threshold", "0")[1]
    assert len(text.splitlines()) == len(first["boxes"])


def test_masks_are_written_and_their_shares_told(cli, tmp_path) -> None:
    images = dataset_for("segmentation").test.inputs[:2]
    files = [tmp_path / f"{index}.png" for index in range(2)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(file)
    model = model_for("segmentation", tmp_path)
    line = ("infer", str(model), *map(str, files), "--masks", str(tmp_path / "masks"), "--json")
    for answer, expected in zip(answers(cli(*line)), logits("segmentation", images), strict=True):
        mask = np.array(Image.open(answer["mask"]))
        assert (mask == expected.argmax(axis=0)).mean() > 0.999
        names = dataset_for("segmentation").classes
        shares = {item["class"]: item["share"] for item in answer["shares"]}
        assert shares == {names[i]: (mask == i).mean() for i in np.unique(mask)}
    # A second call does not replace what is there.
    code, _, err = cli(*line)
    assert code == 2
    assert err.count("exists already") == 2


def test_masks_of_a_classifier_are_refused(cli, tmp_path, photos) -> None:
    model = model_for("image-classification", tmp_path)
    result = cli("infer", str(model), str(photos[0]), "--masks", str(tmp_path / "masks"))
    refused(result, "--masks", "image-classification")
    assert not (tmp_path / "masks").exists()


def test_rows_of_a_table_and_columns_of_texts(cli, tmp_path) -> None:
    columns = ["size", "colour=blue", "colour=red", "a=b", "weight"]
    stated = {"columns": json.dumps(columns), "missing": json.dumps({"weight": 2.5})}
    model = model_for("table-classification", tmp_path, **stated)
    rows = [["1.5", "red", "3", "4"], ["-2", "blue", "0", "NA"], ["0", "green", "1", "1"]]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["size", "colour", "a=b", "weight"], *rows])
    found = answers(cli("infer", str(model), str(tmp_path / "rows.csv"), "--top", "3", "--json"))
    encoded = np.array([[1.5, 0, 1, 3, 4], [-2, 1, 0, 0, 2.5], [0, 0, 0, 1, 1]], np.float32)
    outputs = logits("table-classification", encoded[:, :, None, None])
    expected = torch.from_numpy(outputs).softmax(dim=1).numpy()
    assert [answer["row"] for answer in found] == [1, 2, 3]
    for answer, row in zip(found, expected, strict=True):
        told = [item["probability"] for item in answer["classes"]]
        np.testing.assert_allclose(told, sorted(row, reverse=True), atol=1e-4)


@pytest.mark.parametrize(
    "content, words",
    [
        ("size,weight,c=d\n1,2,3\n", "expected colour"),
        ("size,colour,weight,c=d\n1,red,heavy,2\n", "row 1, weight"),
        ("size,colour,weight,c=d\n1,red\n", "expected 4 fields"),
        ("", "rows.csv"),
        ("size,size\n1,2\n", "same name"),
    ],
)
def test_tables_that_do_not_fit_are_refused(cli, tmp_path, content, words) -> None:
    columns = json.dumps(["size", "colour=red", "colour=blue", "c=d", "weight"])
    model = model_for("table-classification", tmp_path, columns=columns)
    (tmp_path / "rows.csv").write_text(content)
    code, out, err = cli("infer", str(model), str(tmp_path / "rows.csv"))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "rows.csv" in err
    assert words in err


def test_values_sounds_texts_and_arrays(cli, tmp_path) -> None:
    sound = 0.1 * np.sin(np.arange(RATE) / 20)
    soundfile.write(tmp_path / "tone.wav", sound, RATE)
    spectrogram = log_mel(read_sound(tmp_path / "tone.wav")[None])
    (tmp_path / "lines.txt").write_text("the film was good\n\nthe film was bad\n")
    signals = dataset_for("signal-classification").test.inputs[:4, :, 0]
    np.save(tmp_path / "signals.npy", signals)
    np.save(tmp_path / "row.npy", dataset_for("regression").test.inputs[0, :, 0, 0])
    told = {
        task: answers(cli("infer", str(model_for(task, tmp_path)), str(file), "--json"))
        for task, file in (
            ("audio-keywords", tmp_path / "tone.wav"),
            ("text-classification", tmp_path / "lines.txt"),
            ("language-modelling", tmp_path / "lines.txt"),
            ("signal-classification", tmp_path / "signals.npy"),
            ("regression", tmp_path / "row.npy"),
        )
    }
    assert [answer["row"] for answer in told["text-classification"]] == [1, 3]
    assert len(told["signal-classification"]) == 4
    best = logits("audio-keywords", spectrogram)[0].argmax()
    (tone,) = told["audio-keywords"]
    assert tone["classes"][0]["class"] == dataset_for("audio-keywords").classes[best]
    expected = logits("signal-classification", signals[:, :, None]).argmax(axis=1)
    names = [answer["classes"][0]["class"] for answer in told["signal-classification"]]
    assert names == [("cat", "dog", "owl")[index] for index in expected]
    task, _ = network_for("regression")
    (value,) = told["regression"]
    output = logits("regression", dataset_for("regression").test.inputs[:1])[0, 0]
    assert value["value"] == pytest.approx(output * task.std + task.mean, rel=1e-4)
    assert len(told["language-modelling"][0]["next"]) == 1


def test_arrays_with_pickles_or_cut_short_are_refused(cli, tmp_path) -> None:
    model = model_for("table-classification", tmp_path)
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "cut.npy", np.zeros((4, 5)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-8])
    (tmp_path / "empty.npy").write_bytes(b"")
    files = [tmp_path / f"{name}.npy" for name in ("pickle", "cut", "empty", "missing")]
    code, out, err = cli("infer", str(model), *map(str, files))
    assert (code, out, len(err.splitlines())) == (2, "", 4)


def test_models_that_hwnas_did_not_export_are_refused(cli, tmp_path, photos) -> None:
    model = model_for("image-classification", tmp_path, task="")
    refused(cli("infer", str(model), str(photos[0])), "hwnas.task")
    (tmp_path / "broken.onnx").write_bytes(b"\x00broken")
    refused(cli("infer", str(tmp_path / "broken.onnx"), str(photos[0])), "broken.onnx")
    refused(cli("infer", str(tmp_path / "none.onnx"), str(photos[0])), "none.onnx")


def test_the_command_imports_no_pytorch(tmp_path, photos) -> None:
    model = model_for("image-classification", tmp_path)
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from hwnas.cli.app import main\n"
        f"main(['infer', {str(model)!r}, {str(photos[0])!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(photos[0]))
