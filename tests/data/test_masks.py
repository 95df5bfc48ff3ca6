"""Segmentation datasets: known masks, resizing, and malformed or damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import damaged, fuzz, loads_or_is_refused, pixels, refusal
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hwnas.data import load_dataset
from hwnas.data.formats import VOID, subset_indices

SIZES = {"train": [(8, 6), (8, 6), (8, 6)], "test": [(8, 6)]}


def mask_of(width: int, height: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (height, width), dtype=np.uint8)


def save_folder(path: Path, sizes: dict[str, list[tuple[int, int]]] = SIZES) -> Path:
    """Save images of random pixels with masks of three classes; one mask has a palette."""
    path.mkdir(exist_ok=True)
    (path / "classes.txt").write_text("nothing\ncat\ndog\n")
    for split, given_sizes in sizes.items():
        for kind in ("images", "masks"):
            (path / split / kind).mkdir(parents=True)
        for number, (width, height) in enumerate(given_sizes):
            image = Image.fromarray(pixels(height, width, 3, seed=number))
            image.save(path / split / "images" / f"{number}.png")
            mask = Image.fromarray(mask_of(width, height, number))
            if number == 1:
                mask = mask.copy()
                mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
            mask.save(path / split / "masks" / f"{number}.png")
    return path


def test_targets_are_the_pixel_values_of_the_masks(tmp_path: Path) -> None:
    data = load_dataset("masks", str(save_folder(tmp_path)))
    assert (data.task, data.classes) == ("segmentation", ("nothing", "cat", "dog"))
    assert data.input_shape == (3, 6, 8)
    assert len(data.test) == 1
    for number in range(3):
        np.testing.assert_array_equal(data.train.targets[number], mask_of(8, 6, number))
        image = pixels(6, 8, 3, seed=number).transpose(2, 0, 1)
        np.testing.assert_array_equal(data.train.inputs[number], image)


def test_image_and_mask_are_cropped_and_resized_alike(tmp_path: Path) -> None:
    """A white square on black coincides with its mask, whatever the size of the image."""
    save_folder(tmp_path, {"train": [(40, 20), (30, 60)], "val": [(40, 20)]})
    for split in ("train", "val"):
        for file in (tmp_path / split / "images").iterdir():
            width, height = Image.open(file).size
            mask = np.zeros((height, width), np.uint8)
            middle, side = (height // 2, width // 2), min(width, height) // 4
            mask[middle[0] : middle[0] + side, middle[1] - side : middle[1]] = 2
            Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(file)
            Image.fromarray(mask).save(tmp_path / split / "masks" / file.name)
    data = load_dataset("masks", str(tmp_path), image_size=16)
    for split in (data.train, data.test):
        for image, classes in zip(split.inputs, split.targets, strict=True):
            assert set(np.unique(classes)) == {0, 2}
            assert classes[8:12, 4:8].all()
            assert (classes > 0).sum() == 16
            assert image[0][classes > 0].min() > 100
            assert np.median(image[0][classes == 0]) == 0


def test_limits_decode_only_the_subset(tmp_path: Path) -> None:
    save_folder(tmp_path)
    chosen = subset_indices(3, 2, 5, "train")
    (unused,) = set(range(3)) - set(chosen.tolist())
    (tmp_path / "train" / "masks" / f"{unused}.png").write_bytes(b"broken, and never opened")
    data = load_dataset("masks", str(tmp_path), train_limit=2, seed=5)
    np.testing.assert_array_equal(data.train.targets, [mask_of(8, 6, i) for i in chosen])


def save_mask(path: Path, values: np.ndarray, split: str = "train", name: str = "0") -> None:
    Image.fromarray(values).save(path / split / "masks" / f"{name}.png")


def test_void_pixels_have_no_class_and_are_noted(tmp_path: Path) -> None:
    """Pascal VOC and Cityscapes mark pixels of no class by 255."""
    values = mask_of(8, 6, 0)
    values[:2] = 255
    save_mask(save_folder(tmp_path), values)
    data = load_dataset("masks", str(tmp_path))
    expected = np.where(values == 255, VOID, values.astype(int))
    np.testing.assert_array_equal(data.train.targets[0], expected)
    (note,) = data.notes
    assert "value 255 have no class and are ignored" in note
    assert "11.11% of the training masks and 0.00% of the test masks" in note
    assert "hold no pixel" not in note
    # A palette, as Pascal VOC has it, is read by its indices.
    mask = Image.fromarray(values)
    mask.putpalette([c for i in range(256) for c in (i, 255 - i, 7)])
    mask.save(tmp_path / "train" / "masks" / "0.png")
    np.testing.assert_array_equal(load_dataset("masks", str(tmp_path)).train.targets[0], expected)


def test_masks_may_be_wholly_void(tmp_path: Path) -> None:
    save_mask(save_folder(tmp_path), np.full((6, 8), 255, np.uint8))
    data = load_dataset("masks", str(tmp_path))
    assert (data.train.targets[0] == VOID).all()
    save_mask(tmp_path, np.full((6, 8), 255, np.uint8), "test")
    message = refusal(load_dataset, "masks", str(tmp_path))
    assert message.startswith(str(tmp_path / "test" / "masks"))
    assert "all pixels of the test masks have the value 255" in message


def test_masks_of_one_class_are_refused(tmp_path: Path) -> None:
    save_folder(tmp_path)
    for number in range(3):
        save_mask(tmp_path, np.ones((6, 8), np.uint8), name=str(number))
    assert "the training masks hold cat alone" in refusal(load_dataset, "masks", str(tmp_path))


def test_masks_of_0_and_255_are_not_taken_as_void(tmp_path: Path) -> None:
    """Many programs write binary masks so; all of their second class would be ignored."""
    save_folder(tmp_path)
    for number in range(3):
        save_mask(tmp_path, (mask_of(8, 6, number) > 0) * np.uint8(255), name=str(number))
    message = refusal(load_dataset, "masks", str(tmp_path))
    assert message.startswith(str(tmp_path / "train" / "masks"))
    assert "hold nothing besides the value 255" in message
    assert "store that class's number instead" in message


def test_a_class_that_only_void_pixels_may_be_is_noted(tmp_path: Path) -> None:
    save_folder(tmp_path)
    for number in range(3):
        values = mask_of(8, 6, number)
        save_mask(tmp_path, np.where(values == 2, 255, values).astype(np.uint8), name=str(number))
    void, absent = load_dataset("masks", str(tmp_path)).notes
    assert "value 255 have no class" in void
    assert absent.endswith("the training masks hold no pixel of dog")


def test_255_is_a_class_if_there_are_256(tmp_path: Path) -> None:
    save_mask(save_folder(tmp_path), np.full((6, 8), 255, np.uint8))
    (tmp_path / "classes.txt").write_text("".join(f"class {i}\n" for i in range(256)))
    data = load_dataset("masks", str(tmp_path))
    assert (data.train.targets[0] == 255).all()
    assert not any("have no class" in note for note in data.notes)


@pytest.mark.parametrize("dtype", [bool, np.uint16])
def test_masks_of_1_and_of_16_bits_are_read(dtype: type, tmp_path: Path) -> None:
    values = mask_of(8, 6, 0) % 2
    save_mask(save_folder(tmp_path), values.astype(dtype))
    np.testing.assert_array_equal(load_dataset("masks", str(tmp_path)).train.targets[0], values)


def without_mask(path: Path) -> str:
    (path / "train" / "masks" / "1.png").unlink()
    return "without a mask"


def smaller_mask(path: Path) -> str:
    Image.fromarray(mask_of(8, 5, 0)).save(path / "test" / "masks" / "0.png")
    return "differs in size from its image"


def unnamed_class(path: Path) -> str:
    (path / "classes.txt").write_text("nothing\ncat\n")
    return "without a name"


def coloured_mask(path: Path) -> str:
    Image.fromarray(pixels(6, 8, 3)).save(path / "train" / "masks" / "0.png")
    return "one channel"


def names_twice(path: Path) -> str:
    (path / "classes.txt").write_text("cat\ncat\ndog\n")
    return "different names"


def no_names(path: Path) -> str:
    (path / "classes.txt").unlink()
    return "no such file"


def no_images(path: Path) -> str:
    for file in (path / "test" / "images").iterdir():
        file.unlink()
    return "no images"


def lossy_mask(path: Path) -> str:
    Image.fromarray(mask_of(8, 6, 0)).save(path / "train" / "masks" / "0.jpg")
    return "lossy format"


def two_masks(path: Path) -> str:
    Image.fromarray(mask_of(8, 6, 0)).save(path / "train" / "masks" / "0.bmp")
    return "two masks"


@pytest.mark.parametrize(
    "damage",
    [
        without_mask,
        smaller_mask,
        unnamed_class,
        coloured_mask,
        names_twice,
        no_names,
        no_images,
        lossy_mask,
        two_masks,
    ],
)
def test_malformed_datasets_are_refused(damage: Callable[[Path], str], tmp_path: Path) -> None:
    words = damage(save_folder(tmp_path))
    message = refusal(load_dataset, "masks", str(tmp_path))
    assert message.startswith(str(tmp_path))
    assert words in message


@fuzz
@given(draw=st.data())
def test_damaged_masks_load_or_are_refused(
    draw: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = save_folder(tmp_path_factory.mktemp("masks") / "data")
    mask = path / "train" / "masks" / "1.png"
    mask.write_bytes(damaged(mask.read_bytes(), draw))
    loads_or_is_refused("masks", path)
