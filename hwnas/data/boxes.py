"""Reader of object detection datasets in the COCO format.

Each split is a folder of images with an annotation file beside it, such as `train/` and
`train.json`, in the format of Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014
(arXiv 1405.0312): images, categories, and annotations whose `bbox` is left, top, width and height
in pixels. Annotations of groups (`iscrowd`) are ignored.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from hwnas.data.formats import RawData, subset_indices
from hwnas.data.image_folder import central_box, held_out_folder, opened, read_images
from hwnas.errors import InputError

MAX_BYTES = 512 * 2**20
"""Largest annotation file."""
MIN_VISIBLE = 0.25
"""A box is dropped if cropping the image leaves less than this fraction of its area."""


class _Image(BaseModel):
    id: int
    file_name: str


class _Category(BaseModel):
    id: int
    name: str


class _Annotation(BaseModel):
    image_id: int
    category_id: int
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    iscrowd: int | bool = 0


class _Annotations(BaseModel):
    images: list[_Image] = Field(min_length=1)
    categories: list[_Category] = Field(min_length=1)
    annotations: list[_Annotation]

    @property
    def names(self) -> dict[int, str]:
        """Names of the categories by their id, in ascending order of the id."""
        return {c.id: c.name for c in sorted(self.categories, key=lambda c: c.id)}


def read_boxes(
    path: Path, image_size: int | None, limits: tuple[int | None, int | None], seed: int
) -> RawData:
    """Read train/, train.json, test/ and test.json (or val/ and val.json).

    Args:
        path: folder with the images and annotation files of both splits.
        image_size: crop each image to its central square and resize it to this side (pixels).
            Boxes are transformed accordingly and clipped; those of which less than a quarter of
            the area is left are dropped. None keeps the images as they are.
        limits: largest number of training and of test samples, applied before any image is
            decoded; None for all.
        seed: selects the samples where a limit applies.

    Returns:
        Images (N, C, H, W) and boxes (N, B, 5), B being the largest number of objects in any
        image; unused rows are -1.

    Raises:
        InputError: a file is missing or malformed, a file name leads out of its folder, an
            annotation refers to an unknown image or category, a box is empty or outside its
            image, the splits have different categories, or an image is invalid as described at
            `read_image_folder`.
    """
    files: list[Path] = []
    boxes: list[list[tuple[int, np.ndarray]]] = []
    names, counts = None, []
    folders = ("train", held_out_folder(path))
    for split, limit, purpose in zip(folders, limits, ("train", "test"), strict=True):
        where = path / f"{split}.json"
        found = _read_annotations(where)
        if names is not None and found.names != names:
            raise InputError(
                "the categories differ from those of the training split",
                where=str(where),
                expected=names,
                actual=found.names,
            )
        names = found.names
        objects = _objects_by_image(found, str(where))
        chosen = [found.images[i] for i in subset_indices(len(found.images), limit, seed, purpose)]
        files += [_path_within(path / split, image.file_name, where) for image in chosen]
        boxes += [objects[image.id] for image in chosen]
        counts.append(len(chosen))
    assert names is not None
    images = read_images(files, image_size)
    size = images.shape[3], images.shape[2]
    placed = [_visible_boxes(*both, size) for both in zip(files, boxes, strict=True)]
    targets = np.full((len(files), max(1, *map(len, placed)), 5), -1, np.float32)
    for target, rows in zip(targets, placed, strict=True):
        target[: len(rows)] = np.reshape(rows, (-1, 5))
    x_train, x_test = np.split(images, counts[:1])
    y_train, y_test = np.split(targets, counts[:1])
    return RawData(tuple(names.values()), x_train, y_train, x_test, y_test, "detection")


def _read_annotations(path: Path) -> _Annotations:
    where = str(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                "the file is too large", where=where, expected=f"at most {MAX_BYTES} bytes"
            )
        found = _Annotations.model_validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise InputError(
            "no such file", where=where, expected="annotations in the COCO format"
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(
            f"not valid annotations in the COCO format: {first['msg']}", where=f"{where}: {place}"
        ) from None
    for kind in ("images", "categories"):
        ids = [entry.id for entry in getattr(found, kind)]
        if len(set(ids)) < len(ids):
            raise InputError(
                "an id appears twice", where=f"{where}: {kind}", expected="a unique id per entry"
            )
    return found


def _objects_by_image(found: _Annotations, where: str) -> dict[int, list[tuple[int, np.ndarray]]]:
    """Return the class and box (left, top, right, bottom) of every object, by image id."""
    index = {id_: place for place, id_ in enumerate(found.names)}
    objects: dict[int, list[tuple[int, np.ndarray]]] = {image.id: [] for image in found.images}
    for number, annotation in enumerate(found.annotations):
        place = f"{where}: annotations.{number}"
        left, top, width, height = annotation.bbox
        if annotation.image_id not in objects:
            raise InputError(
                "no such image",
                where=place,
                expected="image_id to be an id listed under images",
                actual=annotation.image_id,
            )
        if annotation.category_id not in index:
            raise InputError(
                "no such category",
                where=place,
                expected=f"category_id to be one of {list(index)}",
                actual=annotation.category_id,
            )
        if width <= 0 or height <= 0:
            raise InputError(
                "the box is empty",
                where=place,
                expected="bbox = left, top, width, height with width > 0 and height > 0",
                actual=annotation.bbox,
            )
        if not annotation.iscrowd:
            box = np.array([left, top, left + width, top + height])
            objects[annotation.image_id].append((index[annotation.category_id], box))
    return objects


def _path_within(folder: Path, name: str, where: Path) -> Path:
    """Return the path of a file in a folder; raise InputError if its name leads elsewhere."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
        raise InputError(
            "an image lies outside its folder",
            where=str(where),
            expected=f"a path relative to {folder}, without ..",
            actual=name,
        )
    return folder / parts


def _visible_boxes(
    file: Path, objects: list[tuple[int, np.ndarray]], size: tuple[int, int]
) -> list[tuple[float, ...]]:
    """Return class, left, top, right, bottom of the objects after cropping and resizing an image.

    Args:
        file: the image, for its original size.
        objects: classes and boxes in the pixels of the original image.
        size: width and height after resizing.
    """
    with opened(file) as image:
        given = image.size
    left, top, right, bottom = (0.0, 0.0, *given) if given == size else central_box(given, size)
    scale = np.array([size[0] / (right - left), size[1] / (bottom - top)])
    rows = []
    for class_, box in objects:
        if (box[:2] >= given).any() or (box[2:] <= 0).any():
            raise InputError(
                "a box lies outside its image",
                where=str(file),
                expected=f"left, top, right, bottom within {given[0]}x{given[1]}",
                actual=box.tolist(),
            )
        moved = (box.reshape(2, 2) - (left, top)) * scale
        clipped = np.clip(moved, 0, size)
        area, visible = (np.prod(np.maximum(box[1] - box[0], 0)) for box in (moved, clipped))
        if visible > 0 and visible >= MIN_VISIBLE * area:
            rows.append((float(class_), *clipped.ravel().tolist()))
    return rows
