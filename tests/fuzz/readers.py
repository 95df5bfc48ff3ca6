"""The readers of files that others write, each with valid files to start from."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from helpers.data_files import pixels, save_wav
from helpers.graph_records import evaluations_of, framed, message, record, unique_graphs
from helpers.run_folders import written_run
from helpers.small_models import residual_net
from helpers.tiny import table_of, tiny_space
from PIL import Image

from hwnas.calibration.networks import read_accuracies, read_measurements, write_networks
from hwnas.config import load_config
from hwnas.data import load_dataset
from hwnas.data.nasbench101 import read_records
from hwnas.inspection.__main__ import describe_model
from hwnas.inspection.arrays import read_npz_arrays
from hwnas.latency_tables.convert import convert
from hwnas.latency_tables.measuring.trtexec import read_times
from hwnas.latency_tables.table import LatencyTable
from hwnas.reporting.description import load_architecture, load_space
from hwnas.runs.checkpoints import load_checkpoint, save_checkpoint

SPACE = tiny_space("nasbench201")


@dataclass(frozen=True)
class Reader:
    """A way from a file to a value or to a refusal.

    Attributes:
        file: the file that is replaced by other contents, in a folder of the reader's own.
        seeds: valid contents.
        read: reads the file, or what stands around it.
    """

    file: Path
    seeds: tuple[bytes, ...]
    read: Callable[[], object]


def _alone(file: Path, read: Callable[[Path], object], *seeds: bytes) -> Reader:
    """A reader of one file."""
    return Reader(file, seeds, lambda: read(file))


def _dataset(folder: Path, name: str, file: str, *more: bytes, **options: object) -> Reader:
    """A dataset in a folder, of which one file is replaced."""
    found = folder / file
    return Reader(
        found,
        (found.read_bytes(), *more),
        lambda: load_dataset(name, str(folder), **options),  # type: ignore[arg-type]
    )


def _encoded(image: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def _npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def config(folder: Path) -> Reader:
    """A configuration."""
    texts = [path.read_bytes() for path in sorted(Path("hwnas/configs").glob("*.toml"))[:4]]
    return _alone(folder / "config.toml", load_config, *texts)


def space(folder: Path) -> Reader:
    """A file of a search space."""
    stages = b"stages = [{layers = [1, 2], kernel = [3, 5], width = [4]}]\n"
    small = b'name = "nasbench201"\ncells = 1\nchannels = 4\n'
    return _alone(folder / "space.toml", load_space, b'name = "macro"\n' + stages, small)


def architecture(folder: Path) -> Reader:
    """An architecture file."""
    document = SPACE.sample(np.random.default_rng(0)).to_json()
    return _alone(folder / "a.json", load_architecture, json.dumps(document).encode())


def table(folder: Path) -> Reader:
    """A latency table."""
    table_of(SPACE).save(folder / "t.json")
    return _alone(folder / "t.json", LatencyTable.load, (folder / "t.json").read_bytes())


def published_table(folder: Path) -> Reader:
    """A latency table that another project published."""
    entry = {"mean": 1.0, "count": 3}
    names = ["expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:3-stride:2-idskip:0"]
    text = json.dumps(dict.fromkeys(names, entry)).encode()
    return _alone(folder / "t.json", lambda path: convert("proxylessnas", path, None), text)


def trtexec(folder: Path) -> Reader:
    """The times that trtexec exports."""
    names = "startEnq endEnq startH2d endH2d startCompute endCompute startD2h endD2h"
    times = {f"{name}Ms": number / 10 for number, name in enumerate(names.split())}
    times |= {"inMs": 0.1, "computeMs": 0.1, "outMs": 0.1, "latencyMs": 0.5}
    return _alone(folder / "times.json", read_times, json.dumps([times] * 3).encode())


def networks(folder: Path) -> Reader:
    """Measured networks."""
    file, drawn = folder / "n.csv", [SPACE.sample(np.random.default_rng(i)) for i in range(3)]
    write_networks(file, SPACE, drawn, {"latency_ms": [1.0, 2.0, 3.0]})
    return _alone(file, lambda path: read_measurements(path, SPACE), file.read_bytes())


def accuracies(folder: Path) -> Reader:
    """Accuracies of networks."""
    file, drawn = folder / "n.csv", [SPACE.sample(np.random.default_rng(i)) for i in range(3)]
    write_networks(file, SPACE, drawn, {"accuracy": [10.0, 20.0, 30.0]})
    return _alone(file, lambda path: read_accuracies(path, SPACE), file.read_bytes())


def graph_records(folder: Path) -> Reader:
    """A record of NAS-Bench-101 whose checksums are right whatever it contains."""
    file, framed_file = folder / "record", folder / "r.tfrecord"
    seeds = [
        record(graph, message(1, evaluations_of(graph, 0)), epochs)
        for graph in unique_graphs(3)
        for epochs in (4, 108)
    ]

    def read() -> object:
        framed_file.write_bytes(framed(file.read_bytes()))
        return read_records(framed_file)

    return Reader(file, tuple(seeds), read)


def npz(folder: Path) -> Reader:
    """A dataset of arrays."""
    x, y = pixels(4, 8, 8, 3), np.arange(4) % 2
    seed = _npz(x_train=x, y_train=y, x_test=x, y_test=y)
    return _alone(folder / "d.npz", lambda path: load_dataset("npz", str(path)), seed)


def arrays(folder: Path) -> Reader:
    """Samples for a check."""
    seed = _npz(x=np.ones((2, 3), np.float32), labels=np.arange(2), words=np.array(["a", "b"]))
    return _alone(folder / "a.npz", read_npz_arrays, seed)


def model(folder: Path) -> Reader:
    """An ONNX model."""

    def described(path: Path) -> object:
        # The checker finds a file for external data in this folder of Linux.
        with contextlib.chdir("/proc/self"):
            return describe_model(path, "mark", "status")

    return _alone(folder / "m.onnx", described, residual_net().SerializeToString())


def images(folder: Path) -> Reader:
    """A folder of images."""
    for split in ("train", "test"):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            (folder / split / label / "0.png").write_bytes(_encoded(pixels(6, 8, 3), "png"))
    more = [_encoded(pixels(6, 8, 3), kind) for kind in ("jpeg", "webp", "tiff", "bmp", "gif")]
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = _encoded(pixels(8, 6, 3), "jpeg", exif=exif)
    return _dataset(folder, "folder", "train/a/0.png", *more, turned)


def masks(folder: Path) -> Reader:
    """A folder of images with masks."""
    for split in ("train", "test"):
        for kind, channels in (("images", (3,)), ("masks", ())):
            (folder / split / kind).mkdir(parents=True)
            data = _encoded(pixels(6, 8, *channels) % 2, "png")
            (folder / split / kind / "0.png").write_bytes(data)
    (folder / "classes.txt").write_text("a\nb\n")
    return _dataset(folder, "masks", "train/masks/0.png")


def boxes(folder: Path) -> Reader:
    """Annotations in the COCO format."""
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 3], "iscrowd": 0}
    document = {
        "images": [{"id": 1, "file_name": "0.png", "width": 8, "height": 6}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [annotation],
    }
    for split in ("train", "test"):
        (folder / split).mkdir()
        (folder / split / "0.png").write_bytes(_encoded(pixels(6, 8, 3), "png"))
        (folder / f"{split}.json").write_text(json.dumps(document))
    return _dataset(folder, "boxes", "train.json")


def sounds(folder: Path) -> Reader:
    """A folder of sounds."""
    tone = 0.5 * np.sin(np.arange(800) / 5)
    for split in ("train", "test"):
        for label in ("a", "b"):
            save_wav(folder / split / label / "0.wav", tone)
    more = [save_wav(folder / f"{w}.wav", tone, width=w).read_bytes() for w in (1, 4)]
    return _dataset(folder, "sounds", "train/a/0.wav", *more)


def rows(folder: Path) -> Reader:
    """A table of features."""
    text = "a,b,y\n" + "".join(f"{i / 7:.3f},{'xyz'[i % 3]},{i}\n" for i in range(8))
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text(text)
    return _dataset(folder, "table", "train.csv")


def texts(folder: Path) -> Reader:
    """Labelled texts."""
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text('label,text\na,"one two"\nb,three\na,four\n')
    return _dataset(folder, "text", "train.csv", sequence_length=8)


def history(folder: Path) -> Reader:
    """The history of a run, as the report reads it."""
    run = written_run(folder / "run")
    lines = run.folder.history.read_bytes().splitlines(keepends=True)
    return Reader(run.folder.history, (b"".join(lines[::20]), b"".join(lines[-20:])), run.html)


def check_document(folder: Path) -> Reader:
    """The document of a check, as the report reads it."""
    run = written_run(folder / "run", stages=("architecture", "metrics", "check"))
    return Reader(run.folder.check, (run.folder.check.read_bytes(),), run.html)


def predicted(folder: Path) -> Reader:
    """The predictions of a run, as the report reads them."""
    run = written_run(folder / "run", stages=("architecture", "metrics", "predictions"))
    return Reader(run.folder.predictions, (run.folder.predictions.read_bytes(),), run.html)


def checkpoint(folder: Path) -> Reader:
    """The state of a checkpoint; a damaged one is skipped."""
    save_checkpoint(folder, "search", 1, {"a": [1, 2.0, None], "b": {"c": "text"}})
    file = folder / "search-00000001" / "state.json"
    return Reader(file, (file.read_bytes(),), lambda: load_checkpoint(folder, "search"))


READERS: dict[str, Callable[[Path], Reader]] = {
    "config": config,
    "space": space,
    "architecture": architecture,
    "table": table,
    "published_table": published_table,
    "trtexec": trtexec,
    "networks": networks,
    "accuracies": accuracies,
    "graph_records": graph_records,
    "npz": npz,
    "arrays": arrays,
    "model": model,
    "images": images,
    "masks": masks,
    "boxes": boxes,
    "sounds": sounds,
    "rows": rows,
    "texts": texts,
    "history": history,
    "check_document": check_document,
    "predicted": predicted,
    "checkpoint": checkpoint,
}
"""Every reader by its name."""


@contextlib.contextmanager
def prepared(name: str) -> Iterator[Reader]:
    """A reader in a temporary folder, in memory where there is such a place."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield READERS[name](Path(folder))
