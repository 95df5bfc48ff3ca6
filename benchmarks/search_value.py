"""Claim: what a search buys beside random networks, the largest that fit, and hand-made ones.

A configuration is run with several seeds. In each run the searched model and all controls keep the
same budget of the same table, are trained by the same recipe and seed, measured in the same rounds
as exported files, and scored on the 10,000 test images of Fashion-MNIST or CIFAR-10; the training
images stay those of the configuration.

    HWNAS_DATA=FOLDER python benchmarks/search_value.py CONFIG FOLDER [--pairs 16]

Other settings than those of the configuration are given as `--set train.epochs=2`, and stand in the
rows beside its name. Generators are compared by the same images, with latent vectors as inputs.
Differences are those of the searched model to a control with the same seed, in points of accuracy
or of the task's score.
After `FEWEST` pairs the script stops early for futility, when the upper 95 % bound of the
difference to some control is below 0.5 points, or for success, when the difference to every control
exceeds 0.5 points by two standard errors. Finished runs in FOLDER are kept and unfinished ones are
resumed, so the script can be started again, also with more pairs.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from processes import VERDICTS, run_hwnas
from results import append_row
from scipy.stats import t as student

from hwnas.config import Config, load_config
from hwnas.pipeline.control_choice import RANDOM
from hwnas.pipeline.problem import read_dataset
from hwnas.runs.run_folder import RunFolder

WANTED = 0.005
"""The difference to each control, 0 to 1, that the search has to reach."""
FEWEST = 5
"""Pairs before which nothing is decided."""
MEAN, BEST = "random, mean", "random, best of equal time"


def main() -> None:
    """Run the pairs, append a row for each network of each, and a summary of each control."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--random", type=int, default=3, help="random networks of each pair")
    parser.add_argument("--at-once", type=int, default=2, help="runs at the same time")
    parser.add_argument("--set", action="append", default=[], help="another setting, KEY=VALUE")
    arguments = parser.parse_args()
    folder, config = arguments.folder, load_config(arguments.config, arguments.set)
    label = ", ".join([arguments.config, *arguments.set])
    folder.mkdir(parents=True, exist_ok=True)
    data, table = folder / "data.npz", folder / "table.json"
    if not data.exists():
        write_data(config, data)
    stated = [setting for setting in arguments.set if not setting.startswith("data.")]
    if not table.exists():
        given = [part for setting in stated for part in ("--set", setting)]
        run_hwnas("profile", arguments.config, *given, "--out", str(table))
    latents = "" if config.data.latents is None else f", latents={config.data.latents}"
    settings = [
        f"controls={arguments.random}",
        "threads=1",
        f"data={{name='npz', path={json.dumps(str(data.resolve()))}{latents}}}",
        *stated,
    ]
    documents: list[dict[str, Any]] = []
    # Pairs are judged in the order of their seeds, so that fast runs are not preferred.
    for first in range(0, arguments.pairs, arguments.at_once):
        seeds = range(first, min(first + arguments.at_once, arguments.pairs))
        with ThreadPoolExecutor(arguments.at_once) as pool:
            runs = [folder / f"seed-{seed}" for seed in seeds]
            done = pool.map(lambda run: compare(arguments.config, run, table, settings), runs)
            documents += [record(label, run) for run in done if run is not None]
        show(documents)
        if (reason := decided(documents)) is not None:
            print(f"stopped after {len(documents)} pairs: {reason}", flush=True)
            break
    for name, differences in differences_of(documents).items():
        append_row("search_value", summary(label, name, documents, differences))


def write_data(config: Config, path: Path) -> None:
    """Write the configuration's training images with all published test images."""
    dataset = read_dataset(config.data.model_copy(update={"latents": None}), config.seed)
    source = Path(os.environ["HWNAS_DATA"])
    if "fashion" in config.data.name:
        with np.load(source / "fashion_mnist.npz", allow_pickle=False) as full:
            x_test, y_test, classes = full["x_test"], full["y_test"], full["classes"]
    else:
        packed = lzma.decompress((source / "cifar10_test.npz.xz").read_bytes())
        with np.load(io.BytesIO(packed), allow_pickle=False) as full:
            x_test, y_test, classes = decoded_images(full["dx"]), full["y"], full["classes"]
    if list(dataset.classes) != [str(name) for name in classes]:
        sys.exit(f"the classes of {config.data.name} are not those of the test images")
    x_train = dataset.train.inputs
    x_test = x_test.reshape(-1, *x_train.shape[1:])
    np.savez(
        path,
        x_train=x_train,
        y_train=dataset.train.targets,
        x_test=x_test,
        y_test=y_test,
        classes=classes,
    )


def decoded_images(differences: np.ndarray) -> np.ndarray:
    """CIFAR-10's images (N, 3, 32, 32) from the differences that the folder stores."""
    decoded = np.cumsum(np.cumsum(differences, 2, dtype=np.uint8), 3, dtype=np.uint8)
    decoded[:, 0] += decoded[:, 1]
    decoded[:, 2] += decoded[:, 1]
    return decoded


def compare(config: str, run: Path, table: Path, settings: Sequence[str]) -> Path | None:
    """Run a configuration with its controls, or resume it; None if it ends without a model."""
    line = [sys.executable, "-m", "hwnas", "run", "--out", str(run)]
    if (run / "config.toml").exists():
        line.append("--resume")
    else:
        line += [config, "--table", str(table), "--seed", run.name.removeprefix("seed-")]
        line += [word for setting in settings for word in ("--set", setting)]
    with (run.parent / f"{run.name}.log").open("a") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        code = subprocess.call(line, stdout=log, stderr=log, env=environment)
    if (run / "controls.json").exists() and code in VERDICTS:
        return run
    print(f"{run.name} ended with exit code {code}, see {log.name}", flush=True)
    return None


def record(config: str, run: Path) -> dict[str, Any]:
    """The document of a run's comparison; its rows are appended once."""
    folder = RunFolder(run)
    document, check = folder.read_json(folder.controls_document), folder.read_json(folder.check)
    recorded = run / "recorded"
    if not recorded.exists():
        seconds = document["searched"]["seconds"]
        wall_s = seconds["search"] + seconds["training"]
        searched = {"params": check["model"]["params"], "wall_s": wall_s}
        rows = {"searched": document["searched"] | searched}
        for name, control in document["controls"].items():
            trained_s = control["training_s"] or 0.0
            rows[name] = control | {"wall_s": control["choice_s"] + trained_s}
        for name, row in rows.items():
            if row.get("error") is None:
                append_row("search_value", figures(config, run.name, name, row), quiet=True)
        recorded.touch()
    return document


def figures(config: str, pair: str, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row about one network of a pair."""
    return {
        "configuration": config,
        "pair": pair,
        "network": name,
        "score": row["score"],
        "difference": row["difference"]["value"],
        "standard_error": "",
        "upper_bound": "",
        "pairs": 1,
        "latency_ms": row["measured"]["value_ms"],
        "latency_ratio": row["ratio"]["value"],
        "params": row["params"],
        "wall_s": row["wall_s"],
    }


def summary(
    config: str, name: str, documents: Sequence[Mapping[str, Any]], differences: Sequence[float]
) -> dict[str, Any]:
    """A row about one control over all pairs."""
    scores = [document["searched"]["score"] for document in documents]
    mean, error, upper = bounds(differences)
    return {
        "configuration": config,
        "pair": "all",
        "network": name,
        "score": float(np.mean(scores)) - mean,
        "difference": mean,
        "standard_error": error,
        "upper_bound": upper,
        "pairs": len(differences),
        "latency_ms": "",
        "latency_ratio": "",
        "params": "",
        "wall_s": "",
    }


def differences_of(documents: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """For each control the differences of the searched model to it, 0 to 1, one of each pair."""
    found: dict[str, list[float]] = {MEAN: [], BEST: []}
    for document in documents:
        random, controls = document["random"], document["controls"]
        if random is not None:
            found[MEAN].append(random["difference"]["value"])
            if random["equal_time"] is not None:
                found[BEST].append(random["equal_time"]["difference"])
        for name, control in controls.items():
            if not name.startswith(RANDOM) and control["error"] is None:
                found.setdefault(name, []).append(control["difference"]["value"])
    return {name: values for name, values in found.items() if values}


def bounds(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean, its standard error, and the one-sided upper 95 % bound by Student's distribution."""
    count, mean = len(differences), float(np.mean(differences))
    if count < 2:
        return mean, math.inf, math.inf
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    return mean, error, mean + float(student.ppf(0.95, count - 1)) * error


def decided(documents: Sequence[Mapping[str, Any]]) -> str | None:
    """Why no more pairs are needed, or None while the rule is undecided."""
    known = {name: bounds(values) for name, values in differences_of(documents).items()}
    if len(documents) < FEWEST:
        return None
    for name, (_, _, upper) in known.items():
        if upper < WANTED:
            return f"futility, since the difference to {name} is below {100 * WANTED} points"
    if all(mean - 2 * error > WANTED for mean, error, _ in known.values()):
        return f"success, since all differences are above {100 * WANTED} points"
    return None


def show(documents: Sequence[Mapping[str, Any]]) -> None:
    """Print the differences so far."""
    print(f"after {len(documents)} pairs, points of accuracy:", flush=True)
    for name, values in differences_of(documents).items():
        mean, error, upper = (100 * figure for figure in bounds(values))
        print(
            f"  searched - {name}: {mean:+.2f} +- {error:.2f}, upper bound {upper:+.2f}", flush=True
        )


if __name__ == "__main__":
    main()
