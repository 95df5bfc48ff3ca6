"""Reader of images with boxes about objects.

For each split a folder of images and a file beside it, `train/` and `train.json`, in the format of
Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014 (arXiv 1405.0312): images,
categories, and annotations with `bbox` as left, top, width and height in pixels. Groups
(`iscrowd`) are left out.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from hwnas.data.formats import RawData, subset_indices
from hwnas.data.image_folder import central_box, held_out_name, opened, read_images
from hwnas.errors import InputError

MAX_BYTES = 512 * 2**20
SEEN = 0.25
"""Least share of a box that is left when its image is cut, for it to count."""


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
        """Of the categories, by id in ascending order."""
        return {c.id: c.name for c in sorted(self.categories, key=lambda c: c.id)}


def read_boxes(
    path: Path, image_size: int | None, limits: tuple[int | None, int | None], seed: int
) -> RawData:
    """Read train/, train.json, test/ and test.json (or val).

    The limits are applied before anything is decoded. With `image_size` images are cut to their
    central square and resized to that side; boxes move along and are cut at its edges, and those
    of which less than a quarter is left are dropped.

    Raises:
        InputError: a missing or malformed file, a name that leads out of its folder, an object
            of no image or category, a box without area or outside of its image, splits of
            different categories, or an image as for `read_image_folder`.
    """
    files: list[Path] = []
    boxes: list[list[tuple[int, np.ndarray]]] = []
    names, counts = None, []
    folders = ("train", held_out_name(path))
    for split, limit, purpose in zip(folders, limits, ("train", "test"), strict=True):
        where = path / f"{split}.json"
        found = _read_annotations(where)
        if names is not None and found.names != names:
            raise InputError(
                "other categories than in the training split",
                where=str(where),
                expected=names,
                actual=found.names,
            )
        names = found.names
        objects = _objects(found, str(where))
        chosen = [found.images[i] for i in subset_indices(len(found.images), limit, seed, purpose)]
        files += [_inside(path / split, image.file_name, where) for image in chosen]
        boxes += [objects[image.id] for image in chosen]
        counts.append(len(chosen))
    assert names is not None
    images = read_images(files, image_size)
    size = images.shape[3], images.shape[2]
    placed = [_placed(*both, size) for both in zip(files, boxes, strict=True)]
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
            raise InputError("gigantic", where=where, expected=f"{MAX_BYTES} bytes at most")
        found = _Annotations.model_validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise InputError("no such file", where=where, expected="boxes in COCO's format") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(
            "not boxes in COCO's format", where=f"{where}: {place}", actual=first["msg"]
        ) from None
    for kind in ("images", "categories"):
        ids = [entry.id for entry in getattr(found, kind)]
        if len(set(ids)) < len(ids):
            raise InputError("an id appears twice", where=f"{where}: {kind}")
    return found


def _objects(found: _Annotations, where: str) -> dict[int, list[tuple[int, np.ndarray]]]:
    """Class and box (left, top, right, bottom) of the objects of each image, by the image's id."""
    index = {id_: place for place, id_ in enumerate(found.names)}
    objects: dict[int, list[tuple[int, np.ndarray]]] = {image.id: [] for image in found.images}
    for number, annotation in enumerate(found.annotations):
        place = f"{where}: annotations.{number}"
        left, top, width, height = annotation.bbox
        if annotation.image_id not in objects:
            raise InputError("no such image", where=place, actual=annotation.image_id)
        if annotation.category_id not in index:
            raise InputError("no such category", where=place, actual=annotation.category_id)
        if width <= 0 or height <= 0:
            raise InputError("a box without area", where=place, actual=annotation.bbox)
        if not annotation.iscrowd:
            box = np.array([left, top, left + width, top + height])
            objects[annotation.image_id].append((index[annotation.category_id], box))
    return objects


def _inside(folder: Path, name: str, where: Path) -> Path:
    """A file of a folder, refused where its name leads elsewhere."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or "\0" in name:
        raise InputError(
            "an image outside of its folder", where=str(where), expected=folder, actual=name
        )
    return folder / parts


def _placed(
    file: Path, objects: list[tuple[int, np.ndarray]], size: tuple[int, int]
) -> list[tuple[float, ...]]:
    """Class and box of what is left of an image's objects at a size (width, height)."""
    with opened(file) as image:
        given = image.size
    left, top, right, bottom = (0.0, 0.0, *given) if given == size else central_box(given, size)
    scale = np.array([size[0] / (right - left), size[1] / (bottom - top)])
    rows = []
    for class_, box in objects:
        if (box[:2] >= given).any() or (box[2:] <= 0).any():
            raise InputError(
                "a box outside of its image",
                where=str(file),
                expected=f"within {given[0]}x{given[1]}",
                actual=box.tolist(),
            )
        moved = (box.reshape(2, 2) - (left, top)) * scale
        cut = np.clip(moved, 0, size)
        area, seen = (np.prod(np.maximum(corners[1] - corners[0], 0)) for corners in (moved, cut))
        if seen > 0 and seen >= SEEN * area:
            rows.append((float(class_), *cut.ravel().tolist()))
    return rows
