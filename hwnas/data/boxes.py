"""Reader of object detection datasets in the COCO format.

Each split is a folder of images with an annotation file beside it, such as `train/` and
`train.json`, in the format of Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014
(arXiv 1405.0312): images, categories, and annotations whose `bbox` is left, top, width and height
in pixels of the upright image, as viewers show it, or of the image as it is stored, if the stated
sizes tell so (`box_orientation`). Annotations of groups (`iscrowd`) are ignored.
The published files have objects whose box has no area; these are left out, as are boxes that only
touch the border of their image from outside.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, FiniteFloat, ValidationError

from hwnas.data.box_orientation import Photo, drawn_as_stored, require_stated_size, upright_box
from hwnas.data.class_folders import held_out_folder
from hwnas.data.cropping import central_box
from hwnas.data.damaged_files import DamagedFiles
from hwnas.data.formats import RawData, image_reading, require_no_pipe, subset_indices
from hwnas.data.image_folder import opened, orientation, read_images, upright_size
from hwnas.errors import InputError

MAX_BYTES = 512 * 2**20
"""Largest annotation file."""
MIN_VISIBLE = 0.25
"""A box is dropped if cropping the image leaves less than this fraction of its area."""
BORDER = 1.0
"""Boxes that lie less than this many pixels outside their image are left out, not refused."""
MAX_PIXELS = 1e9
"""Largest magnitude of a number in a box."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def _whole(value: Any) -> Any:
    """Return integers that are written as floats, such as 7.0, as integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _four_or_none(numbers: list[float]) -> list[float]:
    if len(numbers) not in (0, 4):
        raise ValueError("expected four numbers: left, top, width, height")
    return numbers


_Id = Annotated[int, BeforeValidator(_whole)]
_Number = Annotated[FiniteFloat, Field(ge=-MAX_PIXELS, le=MAX_PIXELS)]
_Box = Annotated[list[_Number], AfterValidator(_four_or_none)]


class _Image(BaseModel):
    id: _Id
    file_name: str
    width: FiniteFloat | None = None
    height: FiniteFloat | None = None


class _Category(BaseModel):
    id: _Id
    name: str = Field(min_length=1)


class _Annotation(BaseModel):
    image_id: _Id
    category_id: _Id
    bbox: _Box | None = None
    iscrowd: bool | float | None = None


class _Annotations(BaseModel):
    images: list[_Image] = Field(min_length=1)
    categories: list[_Category] = Field(min_length=1)
    annotations: list[_Annotation]

    @property
    def names(self) -> dict[int, str]:
        """Names of the categories by their id, in ascending order of the id."""
        return {c.id: c.name for c in sorted(self.categories, key=lambda c: c.id)}


class _Object(NamedTuple):
    """An object of an image.

    Attributes:
        class_: index into the class names.
        box: left, top, right, bottom in pixels of the image.
        place: the entry in the annotation file, such as `annotations.7`.
    """

    class_: int
    box: np.ndarray
    place: str


class _LeftOut:
    """Counts the objects of an annotation file that are left out, and remembers the first."""

    def __init__(self, where: Path, cause: str) -> None:
        self._where, self._cause = where, cause
        self._count, self._first = 0, ""

    def add(self, place: str) -> None:
        self._count, self._first = self._count + 1, self._first or place

    @property
    def notes(self) -> list[str]:
        if not self._count:
            return []
        objects = "1 object is" if self._count == 1 else f"{self._count:,} objects are"
        return [f"{self._where}: {objects} left out {self._cause}; the first is {self._first}"]


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
            annotation refers to an unknown image or category, a box lies outside its image, an
            image has another size than the annotations say, or some sizes are of stored images
            and others of upright ones, the splits have different
            categories, there are no objects, or an image is invalid as described at
            `read_image_folder`.
    """
    split_names = ("train", held_out_folder(path))
    annotations = [_read_annotations(path / f"{name}.json") for name in split_names]
    names = annotations[0].names
    if annotations[1].names != names:
        raise InputError(
            "the categories differ from those of the training split",
            where=str(path / f"{split_names[1]}.json"),
            expected=names,
            actual=annotations[1].names,
        )
    splits = []
    for name, found, limit, purpose in zip(
        split_names, annotations, limits, ("train", "test"), strict=True
    ):
        chosen = subset_indices(len(found.images), limit, seed, purpose)
        splits.append(_Split(path / name, found, chosen))
    samples = [sample for split in splits for sample in split.samples]
    files = [sample.file for sample in samples]
    damaged = DamagedFiles(files, "images")
    images = read_images(files, image_size, damaged)
    size = images.shape[3], images.shape[2]
    placed = [rows for split in splits for rows in _placed_boxes(split, size, damaged)]
    damaged.refuse_if_any()
    targets = np.full((len(files), max(1, *map(len, placed)), 5), -1, np.float32)
    for target, rows in zip(targets, placed, strict=True):
        target[: len(rows)] = np.reshape(rows, (-1, 5))
    held_out = len(splits[0].samples)
    return RawData(
        tuple(names.values()),
        images[:held_out],
        targets[:held_out],
        images[held_out:],
        targets[held_out:],
        "detection",
        reading=image_reading(images),
        notes=tuple(note for split in splits for note in split.notes),
    )


class _Sample(NamedTuple):
    """An image with its objects.

    Attributes:
        file: path of the image.
        image: its entry in the annotation file.
        objects: its objects.
        at_border: counts the objects of the split that lie at the border of their image.
        mostly_outside: counts those of which little lies in the image, or in what is cropped of it.
    """

    file: Path
    image: _Image
    objects: list[_Object]
    at_border: _LeftOut
    mostly_outside: _LeftOut


class _Split:
    """The samples of one split, and counts of the objects that are left out.

    Attributes:
        where: the annotation file.
        samples: the images with their objects.
        turned: number of images whose boxes were drawn on the image as it is stored, and turned.
    """

    def __init__(self, folder: Path, found: _Annotations, chosen: np.ndarray) -> None:
        """List the samples.

        Args:
            folder: the images of the split; the annotation file lies beside it.
            found: the annotations.
            chosen: indices of the images that are used.

        Raises:
            InputError: an annotation is malformed, or a file name leads out of the folder.
        """
        self.where = where = folder.with_name(f"{folder.name}.json")
        self.turned = 0
        self._empty = _LeftOut(where, "for a box without area")
        self._groups = _LeftOut(where, "as groups (iscrowd)")
        self._mostly_outside = _LeftOut(
            where, "as less than a quarter of the box lies in the image as it is read"
        )
        self._at_border = _LeftOut(where, "for a box outside the image that touches its border")
        objects = _objects_by_image(found, where, self._empty, self._groups)
        self.samples = [
            _Sample(
                _path_within(folder, image.file_name, where),
                image,
                objects[image.id],
                self._at_border,
                self._mostly_outside,
            )
            for image in (found.images[index] for index in chosen)
        ]

    @property
    def notes(self) -> list[str]:
        turned = (
            f"{self.where}: boxes are drawn on the images as they are stored, and were turned with "
            f"{self.turned:,} of them by their EXIF orientation"
        )
        kinds = (self._empty, self._groups, self._at_border, self._mostly_outside)
        left_out = [note for kind in kinds for note in kind.notes]
        return [*left_out, *([turned] if self.turned else [])]


def _read_annotations(path: Path) -> _Annotations:
    where = str(path)
    require_no_pipe(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                "the file is too large", where=where, expected=f"at most {MAX_BYTES} bytes"
            )
        content = path.read_bytes().removeprefix(_BYTE_ORDER_MARK)
        found = _Annotations.model_validate_json(content, strict=True)
    except FileNotFoundError:
        raise InputError(
            "no such file", where=where, expected="annotations in the COCO format"
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(
            f"not valid annotations in the COCO format: {first['msg']}",
            where=f"{where}: {place}" if place else where,
        ) from None
    for kind in ("images", "categories"):
        ids = [entry.id for entry in getattr(found, kind)]
        if len(set(ids)) < len(ids):
            raise InputError(
                "an id appears twice", where=f"{where}: {kind}", expected="a unique id per entry"
            )
    return found


def _objects_by_image(
    found: _Annotations, path: Path, empty: _LeftOut, groups: _LeftOut
) -> dict[int, list[_Object]]:
    """Return the objects by image id.

    `empty` counts those whose box has no area, and `groups` the annotations of groups.
    """
    where = str(path)
    index = {id_: place for place, id_ in enumerate(found.names)}
    objects: dict[int, list[_Object]] = {image.id: [] for image in found.images}
    for number, annotation in enumerate(found.annotations):
        place = f"{where}: annotations.{number}"
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
        if annotation.iscrowd:
            groups.add(f"annotations.{number}")
            continue
        left, top, width, height = annotation.bbox or (0, 0, 0, 0)
        if width <= 0 or height <= 0:
            empty.add(f"annotations.{number} with bbox {annotation.bbox}")
            continue
        box = np.array([left, top, left + width, top + height])
        found_object = _Object(index[annotation.category_id], box, f"annotations.{number}")
        objects[annotation.image_id].append(found_object)
    if not any(objects.values()):
        raise InputError(
            "no objects",
            where=where,
            expected="at least one annotation whose bbox = left, top, width, height has an area",
            actual=f"{len(found.annotations)} annotations, "
            f"{sum(not one.bbox for one in found.annotations)} of them without a bbox",
        )
    return objects


def _placed_boxes(
    split: _Split, size: tuple[int, int], damaged: DamagedFiles
) -> list[list[tuple[float, ...]]]:
    """Return the rows of `_visible_boxes` of each image of a split, none for damaged ones."""
    photos: dict[int, Photo] = {}
    for index, sample in enumerate(split.samples):
        if sample.file not in damaged:
            with damaged.collecting(sample.file):
                photos[index] = _photo(sample)
    as_stored = drawn_as_stored(photos.values(), split.where)
    placed: list[list[tuple[float, ...]]] = [[] for _ in split.samples]
    for index, photo in photos.items():
        sample = split.samples[index]
        with damaged.collecting(sample.file):
            require_stated_size(photo, as_stored)
            if as_stored and photo.orientation > 1:
                split.turned += 1
                objects = [o._replace(box=upright_box(o.box, photo)) for o in sample.objects]
                sample = sample._replace(objects=objects)
            placed[index] += _visible_boxes(sample, photo.size, size)
    return placed


def _photo(sample: _Sample) -> Photo:
    """Return the size and orientation of an image beside the size that the annotations state."""
    with opened(sample.file) as stored:
        width, height = upright_size(stored, sample.file)
        turned = orientation(stored, sample.file)
    # Some programs write 0 for a size that they do not know.
    stated = sample.image.width or width, sample.image.height or height
    return Photo(sample.file, stated, (width, height), turned)


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
    sample: _Sample, given: tuple[int, int], size: tuple[int, int]
) -> list[tuple[float, ...]]:
    """Return class, left, top, right, bottom of the objects after cropping and resizing an image.

    Args:
        sample: the image and its objects.
        given: width and height of the image before cropping.
        size: width and height after resizing.
    """
    left, top, right, bottom = (0.0, 0.0, *given) if given == size else central_box(given, size)
    scale = np.array([size[0] / (right - left), size[1] / (bottom - top)])
    rows = []
    for class_, box, place in sample.objects:
        if (box[:2] >= given).any() or (box[2:] <= 0).any():
            if (box[:2] >= np.add(given, BORDER)).any() or (box[2:] <= -BORDER).any():
                raise InputError(
                    "a box lies outside its image",
                    where=str(sample.file),
                    expected=f"left, top, right, bottom within {given[0]}x{given[1]}",
                    actual=f"{box.tolist()} in {place}",
                )
            sample.at_border.add(f"{place} of {sample.file.name}")
            continue
        moved = (box.reshape(2, 2) - (left, top)) * scale
        clipped = np.clip(moved, 0, size)
        area, visible = (np.prod(np.maximum(box[1] - box[0], 0)) for box in (moved, clipped))
        # Rounded to float32, the corners of a tiny box may coincide.
        has_area = (np.diff(clipped.astype(np.float32), axis=0) > 0).all()
        if has_area and visible >= MIN_VISIBLE * area:
            rows.append((float(class_), *clipped.ravel().tolist()))
        else:
            sample.mostly_outside.add(f"{place} of {sample.file.name}")
    return rows
