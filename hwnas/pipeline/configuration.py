"""Configurations that state only their data: everything else is chosen for the data.

The tables that a file leaves out are taken from the shipped configuration of the same task, then
adapted to the size and the number of the samples. What was chosen and why is kept in
`Config.notes`, so that it stands in the run folder's `config.toml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwnas.config import (
    Config,
    DataConfig,
    apply_overrides,
    config_name,
    parse_config,
    read_document,
    read_overrides,
    require_valid_keys,
)
from hwnas.data import Dataset
from hwnas.data.arrays import KIND
from hwnas.data.formats import REGRESSION
from hwnas.data.image_sizes import common_image_side
from hwnas.latency_tables.remote.inventory import find_device
from hwnas.pipeline.problem import read_dataset
from hwnas.tasks import Task, task_of

TEMPLATES = {
    "image-classification": "mbconv_slice",
    "segmentation": "mbconv_segmentation",
    "detection": "mbconv_detection",
    "audio-keywords": "mbconv_keywords",
    "text-classification": "sequence_text",
    "language-modelling": "rnn_text",
    "question-answering": "sequence_questions",
    "next-reply": "sequence_replies",
    "signal-classification": "sequence_signals",
    "table-classification": "sequence_likes",
    "regression": "sequence_ratings",
    "image-generation": "decoder_slice",
    "sequence-labelling": "sequence_text",
}
"""The shipped configuration whose settings suit a task."""
REGRESSION_TEMPLATES = {"image": "mbconv_slice", "signal": "sequence_signals"}
"""The same for regression from samples of other kinds than tables."""
REQUIRED = ("space", "budget", "search", "train")
FITTED = {"search": ("steps", "batch_size"), "train": ("epochs", "batch_size")}
"""Keys that are chosen for the data where a table does not state them; the first is required."""
TRAINING_STEPS = 750
"""About how many training steps the shipped configurations take."""
MOST_EPOCHS = 60
SMALL_SIDE, LARGEST_SIDE = 64, 96
"""Sides in pixels: up to which the small layout serves, and that images are resized to at most."""
FOLDERS_OF_IMAGES = ("folder", "boxes", "masks")


def load_config(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration and choose what it leaves out.

    The table `[data]` is enough. The search space follows from the task and the size of the
    samples, the settings of search and training from their number, and the budget is half-way
    between the fastest and the slowest network of the space.

    Args:
        source: a TOML file, or the name of a configuration that ships; the default one if None.
        overrides: `key=value` with dotted keys and TOML values, `train.epochs=3`; a value that
            is no TOML is taken as a string.

    Raises:
        InputError: naming the file and all keys that are unknown or of the wrong type; or for
            data that cannot be read, where they decide what is left out; or for a device that
            `devices.toml` does not name.
    """
    document, where = read_document(source, overrides), config_name(source)
    of_file = read_document(source)
    if "data" in document and _is_incomplete(of_file):
        require_valid_keys(document, where)
        document = _completed(of_file | {"data": document["data"]}, read_overrides(overrides))
        apply_overrides(document, overrides)
    _fill_device(document, of_file, read_overrides(overrides))
    return parse_config(document, where)


def _fill_device(
    document: dict[str, Any], of_file: dict[str, Any], overrides: dict[str, Any]
) -> None:
    """Take runtime and threads from `devices.toml`, unless they are stated with the device."""
    latency = document.get("latency")
    if not isinstance(latency, dict) or not isinstance(latency.get("device"), str):
        return
    device, own = find_device(latency["device"]), of_file.get("latency", {})
    stated = (own if "device" in own else {}) | overrides.get("latency", {})
    keys = {"runtime", "threads"} & device.model_fields_set
    latency.update({key: getattr(device, key) for key in keys if key not in stated})


def fitted_settings(dataset: Dataset, task: Task) -> dict[str, Any]:
    """The tables of settings of search and training that suit a dataset."""
    template = read_document(_template(task))
    search, _ = _search(template["search"], dataset, task, {})
    train, _ = _train(template["train"], dataset, task, {})
    return {"threads": template.get("threads", 2), "search": search, "train": train}


def _is_incomplete(document: dict[str, Any]) -> bool:
    """Whether a required table or key is missing."""
    if any(name not in document for name in REQUIRED):
        return True
    return any(
        isinstance(document[name], dict) and key not in document[name]
        for name, (key, _) in FITTED.items()
    )


def _completed(document: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """The document with all required tables and keys; notes tell what overrides do not change."""
    data = DataConfig.model_validate(document["data"])
    notes: list[str] = []
    if data.name in FOLDERS_OF_IMAGES and data.image_size is None and data.path is not None:
        side, reason = common_image_side(Path(data.path), LARGEST_SIDE)
        if side is not None:
            data = data.model_copy(update={"image_size": side})
            notes.append(f"data.image_size = {side}: {reason}")
    seed = document.get("seed", 0)
    dataset = read_dataset(data, seed if isinstance(seed, int) else 0)
    task = task_of(dataset)
    template = read_document(_template(task))
    complete = {"threads": template.get("threads", 2), **document}
    complete["data"] = data.model_dump(exclude_none=True)
    for name, choose in (("space", _space), ("search", _search), ("train", _train)):
        stated = overrides.get(name, {})
        chosen, reason = choose(template[name], dataset, task, stated)
        _fill(complete, name, chosen, reason, notes)
    if "budget" not in complete:
        complete["budget"] = {"fraction": 0.5}
    if not {"ms", "fraction"} & {*document.get("budget", {}), *overrides.get("budget", {})}:
        notes.append(
            "budget.fraction = 0.5: half-way between the fastest and the slowest network, since "
            "no budget is given; state yours with --budget-ms or budget.fraction"
        )
    return {**complete, "notes": [*notes, *document.get("notes", [])]}


def _template(task: Task) -> str:
    """The shipped configuration that suits a task and the kind of its samples."""
    usual = TEMPLATES.get(task.name, "mbconv_slice")
    kind = task.dataset.reading.get(KIND, "")
    return REGRESSION_TEMPLATES.get(kind, usual) if task.name == REGRESSION else usual


def _fill(
    document: dict[str, Any], name: str, chosen: dict[str, Any], reason: str, notes: list[str]
) -> None:
    """Add a chosen table, or those keys of a stated one that have to fit the data."""
    stated = document.get(name)
    if stated is None:
        document[name] = chosen
        notes.append(f"{name}: {reason}")
    elif isinstance(stated, dict):
        missing = {key: chosen[key] for key in FITTED.get(name, ()) if key not in stated}
        document[name] = missing | stated
        notes += [f"{name}.{key} = {value}: {reason}" for key, value in missing.items()]


def _space(
    template: dict[str, Any], dataset: Dataset, task: Task, stated: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    space = dict(template)
    shape = " x ".join(str(size) for size in dataset.input_shape)
    side = min(dataset.input_shape[-2:]) if len(dataset.input_shape) == 3 else 0
    if space["name"] == "mbconv" and side > SMALL_SIDE:
        space |= {"layout": "proxylessnas", "width_multiplier": 0.5}
    space = dict(stated) if stated.get("name", space["name"]) != space["name"] else space | stated
    in_words = ", ".join(f"{key} {value}" for key, value in space.items())
    return space, f"{in_words}, for {task.name.replace('-', ' ')} with samples of {shape}"


def _search(
    template: dict[str, Any], dataset: Dataset, task: Task, stated: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    samples = len(dataset.train)
    search = template | {
        "batch_size": _batch_size(template["batch_size"], samples // 2),
        "ranking_images": max(1, min(template["ranking_images"], samples // 2)),
        **stated,
    }
    in_words = f"{search['steps']} steps of {search['batch_size']}"
    return search, f"{in_words}, for {samples} training samples"


def _train(
    template: dict[str, Any], dataset: Dataset, task: Task, stated: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    samples = len(dataset.train)
    batch_size = _batch_size(template["batch_size"], samples)
    epochs = -(-TRAINING_STEPS * batch_size // samples)
    train = template | {
        "batch_size": batch_size,
        "epochs": min(max(epochs, template["epochs"]), MOST_EPOCHS),
        # Arrows, letters, or what only left and right tell apart would be harmed.
        "flip": False,
        **stated,
    }
    in_words = f"{train['epochs']} epochs in batches of {train['batch_size']}"
    return train, f"{in_words}, for {samples} training samples"


def _batch_size(usual: int, samples: int) -> int:
    """The usual batch size, halved until there are four batches, and at least 2."""
    while usual > 2 and 4 * usual > samples:
        usual //= 2
    return usual
