"""What `hwnas infer` tells of generated images, and the files that it writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.exported import dataset_for, model_for
from PIL import Image

from hwnas.errors import InputError
from hwnas.inference.answers import _for_png
from hwnas.inference.predictor import Predictor


@pytest.fixture
def model(tmp_path):
    return model_for("image-generation", tmp_path)


@pytest.fixture
def latents(tmp_path):
    values = dataset_for("image-generation").test.inputs[:2, :, 0, 0]
    np.save(tmp_path / "latents.npy", values)
    return tmp_path / "latents.npy"


def test_images_of_vectors_are_written_as_png_files(model, latents, tmp_path, cli) -> None:
    folder = tmp_path / "drawn"
    code, out, _ = cli("infer", str(model), str(latents), "--images", str(folder), "--json")
    assert code == 0
    expected = Predictor(model).predict(np.load(latents))
    assert expected.dtype == np.uint8
    assert expected.shape == (2, 1, 28, 28)
    answers = json.loads(out)["answers"]
    for number, (answer, image) in enumerate(zip(answers, expected, strict=True), start=1):
        path = folder / f"latents_{number}.png"
        assert (answer["image"], answer["size"]) == (str(path), [1, 28, 28])
        np.testing.assert_array_equal(np.asarray(Image.open(path)), image[0])
    code, _, err = cli("infer", str(model), str(latents), "--images", str(folder))
    assert (code, err.count("\n")) == (2, 1)
    assert "exists already" in err


def test_a_table_of_vectors_gives_the_same_images(model, latents, tmp_path, cli) -> None:
    values = np.load(latents)
    header = ",".join(f"z{i + 1}" for i in range(values.shape[1]))
    rows = [",".join(map(str, row)) for row in values.tolist()]
    (tmp_path / "latents.csv").write_text("\n".join([header, *rows]))
    code, from_table, _ = cli("infer", str(model), str(tmp_path / "latents.csv"))
    assert code == 0
    _, from_array, _ = cli("infer", str(model), str(latents))
    brightness = [line.partition(": ")[2] for line in from_array.splitlines()]
    assert [line.partition(": ")[2] for line in from_table.splitlines()] == brightness
    assert "an image of 1 x 28 x 28" in from_table


def test_other_models_write_no_images(tmp_path, cli) -> None:
    other = model_for("regression", tmp_path)
    code, _, err = cli("infer", str(other), "x.csv", "--images", str(tmp_path / "drawn"))
    assert (code, err.count("\n")) == (2, 1)
    assert "--images: the model does not predict images" in err


def test_images_of_two_channels_are_no_png_files() -> None:
    with pytest.raises(InputError, match="1 or 3 channels, got 2"):
        _for_png(np.zeros((2, 4, 4), np.uint8), "model.onnx")
