"""All damaged files of a folder in one line, for every reader of folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import pixels, refusal, save_wav
from PIL import Image

from hwnas.data import load_dataset
from hwnas.data.damaged_files import DamagedFiles
from hwnas.errors import InputError

TRAIN = 40


def save_image(file: Path, channels: int = 3) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(8, 8, channels)[..., :channels].squeeze()).save(file)


def save_images(path: Path) -> list[Path]:
    for split, count in (("train", TRAIN), ("test", 2)):
        for number in range(count):
            save_image(path / split / "ab"[number % 2] / f"{number}.png")
    return sorted(path.glob("train/*/*.png"))


def save_masks(path: Path) -> list[Path]:
    (path / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (path / "classes.txt").write_text("nothing\ncat\n")
    for split, count in (("train", TRAIN), ("test", 2)):
        for number in range(count):
            save_image(path / split / "images" / f"{number}.png")
            mask = path / split / "masks" / f"{number}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(8, 8) % 2).save(mask)
    return sorted(path.glob("train/masks/*.png"))


def save_boxes(path: Path) -> list[Path]:
    for split, count in (("train", TRAIN), ("test", 2)):
        for number in range(count):
            save_image(path / split / f"{number}.png")
        content = {
            "images": [{"id": i, "file_name": f"{i}.png"} for i in range(count)],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [
                {"image_id": i, "category_id": 1, "bbox": [1, 1, 4, 4]} for i in range(count)
            ],
        }
        (path / f"{split}.json").write_text(json.dumps(content))
    return sorted((path / "train").glob("*.png"))


def save_sounds(path: Path) -> list[Path]:
    for split, count in (("train", TRAIN), ("test", 2)):
        for number in range(count):
            save_wav(path / split / "ab"[number % 2] / f"{number}.wav", np.zeros(100))
    return sorted(path.glob("train/*/*.wav"))


READERS = {
    "folder": save_images,
    "masks": save_masks,
    "boxes": save_boxes,
    "sounds": save_sounds,
}


@pytest.mark.parametrize("name", READERS)
def test_all_damaged_files_are_counted_and_ten_are_named(name: str, tmp_path: Path) -> None:
    files = READERS[name](tmp_path)[:22]
    for number, file in enumerate(files):
        content = file.read_bytes()
        file.write_bytes([b"", b"no file of this kind", content[: len(content) // 2]][number % 3])
    message = refusal(load_dataset, name, str(tmp_path))
    assert message.startswith(str(tmp_path))
    assert ": 22 of " in message
    assert "and 12 more" in message
    listing = message.split("; the first of them")[0]
    assert sum(str(file.relative_to(tmp_path)) in listing for file in files) == 10


@pytest.mark.parametrize("name", READERS)
def test_a_single_damaged_file_is_named_with_its_error(name: str, tmp_path: Path) -> None:
    file = READERS[name](tmp_path)[3]
    file.write_bytes(file.read_bytes()[:30])
    message = refusal(load_dataset, name, str(tmp_path))
    assert message.startswith(f"{file}: ")
    assert "cannot be used" not in message


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_of_both_splits_are_in_one_list(name: str, tmp_path: Path) -> None:
    first = READERS[name](tmp_path)[0]
    second = Path(str(first).replace("train", "test"))
    assert second.exists()
    for file in (first, second):
        file.write_bytes(b"")
    message = refusal(load_dataset, name, str(tmp_path))
    assert ": 2 of " in message
    assert all(str(file.relative_to(tmp_path)) in message for file in (first, second))


def test_damaged_images_and_masks_are_in_one_list(tmp_path: Path) -> None:
    save_masks(tmp_path)
    (tmp_path / "train" / "images" / "3.png").write_bytes(b"")
    Image.fromarray(pixels(8, 9) % 2).save(tmp_path / "train" / "masks" / "4.png")
    Image.fromarray(pixels(8, 8, 3)).save(tmp_path / "train" / "masks" / "5.png")
    message = refusal(load_dataset, "masks", str(tmp_path))
    assert f"{tmp_path}: 3 of {2 * (TRAIN + 2)} images and masks cannot be used" in message
    assert "images/3.png (not an image in a supported format)" in message
    assert "masks/4.png (the mask differs in size from its image)" in message
    assert "masks/5.png (a mask must have one channel)" in message


def test_masks_that_are_missing_are_in_one_list(tmp_path: Path) -> None:
    masks = save_masks(tmp_path)
    for mask in masks[:3]:
        mask.unlink()
    message = refusal(load_dataset, "masks", str(tmp_path))
    assert ": 3 of " in message
    assert all(f"images/{mask.name}" in message for mask in masks[:3])
    assert "an image without a mask" in message


def test_a_missing_image_is_missing_not_damaged(tmp_path: Path) -> None:
    files = save_boxes(tmp_path)
    files[1].unlink()
    message = refusal(load_dataset, "boxes", str(tmp_path))
    assert message.startswith(f"{files[1]}: no such image")
    assert "damaged" not in message
    files[5].unlink()
    files[7].write_bytes(b"")
    message = refusal(load_dataset, "boxes", str(tmp_path))
    assert f"3 of {TRAIN + 2} images cannot be used" in message
    assert f"train/{files[1].name} (no such image)" in message
    assert f"train/{files[7].name} (not an image in a supported format)" in message


def test_images_of_another_size_do_not_hide_those_that_are_damaged(tmp_path: Path) -> None:
    files = save_images(tmp_path)
    for file in files[1:]:
        Image.fromarray(pixels(9, 8, 3)).save(file)
    files[-1].write_bytes(b"")
    message = refusal(load_dataset, "folder", str(tmp_path))
    assert f"{files[-1].relative_to(tmp_path)} (not an image" in message
    assert "differs in size from the first one" in message


def collected(folder: Path, errors: dict[str, str]) -> str:
    files = [folder / name for name in errors]
    damaged = DamagedFiles(files, "images")
    for file in files:
        with damaged.collecting(file):
            raise InputError(errors[file.name], where=str(file), mend="open it")
    return refusal(damaged.refuse_if_any)


def test_the_line_keeps_to_one_line_of_bounded_length(tmp_path: Path) -> None:
    errors = {f"{'long name ' * 20}{i}\n\u202e.png": "bad " * 300 + str(i) for i in range(500)}
    message = collected(tmp_path, errors)
    assert "500 of 500 images cannot be used" in message
    assert "and 490 more" in message
    assert len(message) <= 2000
    assert message.isprintable()


def test_a_common_cause_is_stated_once_and_the_first_error_whole(tmp_path: Path) -> None:
    message = collected(tmp_path, {"a.png": "bad", "b.png": "bad"})
    assert message == (
        f"{tmp_path}: 2 of 2 images cannot be used: bad: a.png, b.png; "
        f"the first of them: {tmp_path}/a.png: bad; open it"
    )


def test_without_errors_nothing_is_raised(tmp_path: Path) -> None:
    damaged = DamagedFiles([tmp_path / "a"], "images")
    with damaged.collecting(tmp_path / "a"):
        pass
    damaged.refuse_if_any()
    assert tmp_path / "a" not in damaged


def test_other_exceptions_pass_through(tmp_path: Path) -> None:
    damaged = DamagedFiles([tmp_path / "a"], "images")

    def fail() -> None:
        raise KeyError("a bug")

    call: Callable[[], None] = fail
    with pytest.raises(KeyError), damaged.collecting(tmp_path / "a"):
        call()
