"""The sheets of generated and real images: what is stored, what is drawn, what is refused."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from helpers.exported import dataset_for, network_for
from PIL import Image

from hwnas.errors import InputError
from hwnas.reporting.generated import GAP, GeneratedImages, generated_figures, sheet
from hwnas.training.generated_images import generated_images


@pytest.fixture
def stored(tmp_path):
    task, network = network_for("image-generation")
    path = tmp_path / "generated_images.npz"
    path.write_bytes(generated_images(network, task.dataset, torch.device("cpu")))
    return path


def test_what_is_stored_is_made_of_the_first_test_vectors(stored) -> None:
    data, (_, network) = dataset_for("image-generation"), network_for("image-generation")
    found = GeneratedImages.read(stored)
    np.testing.assert_array_equal(found.real, data.test.targets)
    with torch.no_grad():
        expected = network(torch.from_numpy(data.test.inputs)).numpy()
    np.testing.assert_allclose(found.generated / 255, expected, atol=0.5 / 255 + 1e-6)


def test_a_sheet_has_the_images_in_rows(stored) -> None:
    found = GeneratedImages.read(stored)
    drawn = sheet(found.real)
    assert drawn.shape == (1, 2 * 28 + GAP, 8 * 28 + 7 * GAP)
    np.testing.assert_array_equal(drawn[:, 28 + GAP :, :28], found.real[8])
    assert (drawn[:, :, 28 : 28 + GAP] == 255).all()


def test_the_report_shows_both_sheets(stored) -> None:
    (shown,) = generated_figures(GeneratedImages.read(stored))
    pictures = re.findall(r'base64,([^"]+)"', str(shown))
    sizes = [Image.open(io.BytesIO(base64.b64decode(one))).size for one in pictures]
    assert sizes == [(8 * 28 + 7 * GAP, 2 * 28 + GAP)] * 2
    assert generated_figures(None) == []


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"generated": np.zeros((1, 1, 4, 4), np.uint8)}, "missing array.*real"),
        (
            dict.fromkeys(("generated", "real"), np.zeros((1, 1, 400, 4), np.uint8)),
            "not images that can be shown",
        ),
        (dict.fromkeys(("generated", "real"), np.zeros((1, 2, 4, 4))), "not images"),
        (dict.fromkeys(("generated", "real"), np.zeros((65, 1, 4, 4), np.uint8)), "1 to 64"),
    ],
)
def test_damaged_files_are_refused(arrays, words, tmp_path) -> None:
    path = tmp_path / "generated_images.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=words):
        GeneratedImages.read(path)
