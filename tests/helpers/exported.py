"""Exported models of every task with random weights, in a second instead of by a whole run."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from helpers.tiny import TINY_OPTIONS

from hwnas.data import Dataset, Split, load_dataset
from hwnas.data.arrays import raw_data_of
from hwnas.data.own_data import dataset_of
from hwnas.data.sounds import SAMPLES as SAMPLE_COUNT
from hwnas.data.sounds import log_mel
from hwnas.deploy.export import export_network, set_metadata
from hwnas.pipeline.problem import data_sizes
from hwnas.spaces import build_space
from hwnas.spaces.networks import Network
from hwnas.tasks import Task, task_of

SPACE_OF = {
    "text-classification": "sequence",
    "question-answering": "sequence",
    "next-reply": "sequence",
    "language-modelling": "rnn",
    "image-generation": "decoder",
}
"""Spaces of tasks that read tokens or latent vectors; all others use `mbconv`."""
GENERATED = {
    "text-classification": "generated-text",
    "language-modelling": "generated-language",
    "question-answering": "generated-questions",
    "next-reply": "generated-replies",
}
SAMPLES = 60
SHAPES = {"signal-classification": (3, 20), "table-classification": (5,), "regression": (5,)}


@cache
def dataset_for(task: str) -> Dataset:
    """A small dataset of a task."""
    if task in GENERATED:
        limits = {"train_limit": SAMPLES, "test_limit": 12}
        length = {"question-answering": 32, "next-reply": 40}.get(task, 8)
        return load_dataset(GENERATED[task], sequence_length=length, **limits)
    if task == "image-generation":
        return load_dataset(latents=6, train_limit=SAMPLES, test_limit=12)
    rng = np.random.default_rng(0)
    labels = np.tile(["cat", "dog", "owl"], SAMPLES // 3)
    if task in SHAPES:
        values = rng.normal(2, 3, (SAMPLES, *SHAPES[task]))
        targets = values[:, 0] * 100 - 7 if task == "regression" else labels
        return dataset_of((values, targets), name=task)
    if task == "audio-keywords":
        sounds = log_mel(rng.uniform(-0.5, 0.5, (SAMPLES, SAMPLE_COUNT)))
        raw = raw_data_of(sounds, labels, sounds[:9], labels[:9], kind="image", channels="first")
        splits = Split(raw.x_train, raw.y_train), Split(raw.x_test, raw.y_test)
        return Dataset(task, raw.classes, *splits, task=task)
    images = rng.integers(0, 256, (SAMPLES, 3, 16, 16), dtype=np.uint8)
    targets = {
        "image-classification": labels,
        "segmentation": rng.integers(0, 3, (SAMPLES, 16, 16)),
        "detection": np.tile(np.float32([[[0, 2, 3, 9, 12], [1, 5, 5, 14, 9]]]), (SAMPLES, 1, 1)),
    }
    classes = ("sky", "road", "tree")
    named = None if task == "image-classification" else classes
    return dataset_of((images, targets[task]), name=task, classes=named)


@cache
def network_for(name: str) -> tuple[Task, Network]:
    """A task on its small dataset, and a network for it with random weights and statistics."""
    task = task_of(dataset_for(name))
    space_name = SPACE_OF.get(name, "mbconv")
    space = build_space(space_name, TINY_OPTIONS[space_name] | data_sizes(task))
    torch.manual_seed(0)
    network = space.network(space.sample(np.random.default_rng(0)))
    inputs = task.dataset.train.inputs
    with torch.no_grad():
        network.train()
        network(task.dataset.normalise(inputs))  # moves the running statistics
    return task, network.eval()


@cache
def exported(name: str) -> bytes:
    """The exported network of a task, without properties."""
    task, network = network_for(name)
    names = task.input_name, task.output_name
    return export_network(network, task.dataset.input_shape, names).SerializeToString()


def model_for(name: str, folder: Path, **properties: str) -> Path:
    """The file of an exported model, with further properties or other values of them."""
    task, _ = network_for(name)
    model = onnx.load_model_from_string(exported(name))
    stated = {key: json.dumps(value) for key, value in task.properties().items()}
    set_metadata(model, {"task": task.name, **stated, **properties})
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path
