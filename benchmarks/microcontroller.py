"""Claim: what a network takes on a microcontroller is predicted, and a search keeps such limits.

`sizes` draws random networks of a space for signals of nine sensors at 128 times, and compares the
predicted RAM with the arena of LiteRT for Microcontrollers and with the `.bss` of the C program,
and the predicted flash with the sections that GCC makes for a Cortex-M4.

`search` searches that space within 20 kB of RAM, 64 kB of flash and 60,000 multiply-accumulates,
the limits of TinyTNAS on UCI-HAR (Saha et al., 2024), which reports 93.4 % there. UCI-HAR is not
among the data: the signals are generated, six activities of persons who differ in strength, pace
and the way they wear the sensor, and none of the test's persons is among those that are learned
from. So the accuracy is compared with that of controls within the same limits, not with the paper.

    python benchmarks/microcontroller.py sizes --networks 20
    python benchmarks/microcontroller.py search --seeds 0
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from results import append_row

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.integer_programs import quantised, random_network, samples_of, write_sources

import hwnas
from hwnas.budget.sizes import Size
from hwnas.config import load_config
from hwnas.deploy.microcontroller.c_source import flash_bytes
from hwnas.deploy.microcontroller.litert import flatbuffer
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces import build_space

SENSORS, TIMES, CLASSES = 9, 128, 6
PERSONS, TEST_PERSONS = 40, 15
SAMPLES_OF_PERSON = 60
STAGES = [
    {
        "operator": ["conv", "separable"],
        "kernel": [3, 5, 7],
        "width": [8, 16, 24],
        "channels": 16,
        "stride": 2,
    },
    {
        "operator": ["conv", "separable"],
        "layers": [1, 2, 3],
        "kernel": [3, 5, 7],
        "width": [16, 32],
        "channels": 24,
        "stride": 2,
    },
    {
        "operator": ["conv", "separable"],
        "layers": [1, 2],
        "kernel": [3, 5],
        "channels": 32,
        "stride": 2,
    },
]
SPACE = {"stem_channels": 8, "stem_stride": 2, "stages": STAGES}
LIMITS = {"ram_kb": 20.0, "flash_kb": 64.0, "macs": 60_000.0}


def compare_sizes(networks: int) -> None:
    """Write a row with the errors of the predictions over random networks."""
    space = build_space(
        "macro",
        SPACE | {"input_channels": SENSORS, "height": 1, "width": TIMES, "classes": CLASSES},
    )
    samples = samples_of(space)
    errors: dict[str, list[float]] = {"arena": [], "bss": [], "flash": []}
    for seed in range(networks):
        planned, program = quantised(random_network(space, seed), samples)
        with TemporaryDirectory() as folder:
            text, bss = compiled_sizes(write_sources(planned, program, Path(folder)))
            arena = arena_of(flatbuffer(planned, program), Path(folder))
        errors["arena"].append(planned.bytes / arena - 1)
        errors["bss"].append(planned.bytes / bss - 1)
        errors["flash"].append(flash_bytes(planned.program) / text - 1)
    row: dict[str, Any] = {"what": "sizes", "n": networks}
    for name, found in errors.items():
        row[f"{name}_mean_error"] = f"{np.mean(found):.4f}"
        row[f"{name}_largest_error"] = f"{np.abs(found).max():.4f}"
    write(row)


def arena_of(model: bytes, folder: Path) -> int:
    """Bytes of the arena's head, which LiteRT for Microcontrollers prints from C++."""
    (folder / "model.tflite").write_bytes(model)
    script = (
        "import sys; from tflite_micro.python.tflite_micro import runtime as r; "
        "i = r.Interpreter.from_file(sys.argv[1], arena_size=2**20); "
        "i.invoke(); i.print_allocations()"
    )
    command = [sys.executable, "-c", script, str(folder / "model.tflite")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"head (\d+) bytes", done.stdout + done.stderr)
    assert found is not None
    return int(found[1])


def compiled_sizes(source: Path) -> tuple[int, int]:
    """Bytes of code with constants, and of the arena, for a Cortex-M4."""
    compiled = source.with_suffix(".o")
    flags = ["-std=c99", "-Os", "-mcpu=cortex-m4", "-mthumb", "-c", "-o", str(compiled)]
    subprocess.run(["arm-none-eabi-gcc", *flags, str(source)], check=True)
    listed = subprocess.run(
        ["arm-none-eabi-size", str(compiled)], check=True, capture_output=True, text=True
    ).stdout
    text, data, bss = map(int, listed.splitlines()[1].split()[:3])
    return text + data, bss


def activities(rng: np.random.Generator, persons: int) -> tuple[np.ndarray, np.ndarray]:
    """Signals (samples, sensors, times) of so many persons, and the activity of each.

    Three activities are periodic, with a pace and a ratio of the second harmonic each; three are
    postures, which differ in the direction of gravity. Noise and drift are those of cheap sensors.
    """
    paces, harmonics = np.array([1.7, 2.0, 2.3]), np.array([0.2, 0.6, 1.0])
    directions = rng_directions()
    signals, labels = [], []
    for _ in range(persons):
        pace, strength = rng.normal(1, 0.06), rng.uniform(0.5, 1.5)
        turned = np.linalg.qr(np.eye(3) + 0.25 * rng.normal(size=(3, 3)))[0]
        mixing = np.eye(SENSORS) + 0.15 * rng.normal(size=(SENSORS, SENSORS))
        for _ in range(SAMPLES_OF_PERSON):
            label = int(rng.integers(CLASSES))
            seconds = np.arange(TIMES) / 50
            signal = np.zeros((SENSORS, TIMES))
            if label < 3:
                phase = 2 * np.pi * (paces[label] * pace * seconds + rng.random())
                wave = np.sin(phase) + harmonics[label] * np.sin(2 * phase + 0.7)
                amplitude = strength * np.linspace(1, 0.3, SENSORS)
                signal += amplitude[:, None] * wave
            posture = directions[max(label - 2, 0)]
            signal[:3] += (turned @ posture)[:, None]
            noise = rng.normal(size=(SENSORS, TIMES)) * 0.8
            drift = 0.3 * rng.normal(size=(SENSORS, 1))
            signals.append(mixing @ signal + noise + drift)
            labels.append(label)
    return np.array(signals, dtype=np.float32), np.array(labels)


def rng_directions() -> np.ndarray:
    """The direction of gravity of movement and of each of three postures, 35 degrees apart."""
    angles = np.deg2rad([0, 35, 70, 105])
    return np.stack([np.cos(angles), np.sin(angles), np.full(4, 0.2)], axis=1)


def search(seed: int, steps: int, epochs: int, controls: int) -> None:
    """Write a row with the scores of a search within the limits, and of its controls."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "signals.npz"
        rng = np.random.default_rng(0)
        train, test = activities(rng, PERSONS), activities(rng, TEST_PERSONS)
        arrays = dict(zip(("x_train", "y_train", "x_test", "y_test"), (*train, *test), strict=True))
        np.savez(path, **arrays)
        config = load_config(None, settings(path, seed, steps, epochs, controls))
        started = time.monotonic()
        document = hwnas.run(config, Path(folder) / "run", show_progress=False)
        minutes = (time.monotonic() - started) / 60
        gates = {gate["name"]: gate["value"] for gate in document["gates"]}
        found = RunFolder(Path(folder) / "run")
        sizes = found.read_json(found.microcontroller_sizes)
    row: dict[str, Any] = {"what": "search", "seed": seed, "n": 1, "minutes": f"{minutes:.1f}"}
    row |= {name: f"{gates[name]:.6g}" for name in LIMITS}
    row |= {"accuracy": sizes["score_float32"], "int8_accuracy": sizes["score"]}
    row |= {"verdict": document["verdict"], "test_samples": len(test[0])}
    row["predicted"] = sizes["predicted"] == {k: sizes[k] for k in Size.__annotations__}
    for name, control in document["controls"]["controls"].items():
        row[name] = control.get("score", control["error"])
    write(row)


def settings(path: Path, seed: int, steps: int, epochs: int, controls: int) -> list[str]:
    """The settings of one search."""
    return [
        "search.proxy={}",
        "train.flip=false",
        "train.crop_padding=0",
        "train.cutout=0",
        "train.auxiliary_weight=0.0",
        f"seed={seed}",
        "threads=1",
        "data.name=npz",
        f"data.path={path}",
        "space=" + inline({"name": "macro", **SPACE}),
        "budget=" + inline({"fraction": 1.0, **LIMITS}),
        f"search.steps={steps}",
        "search.batch_size=32",
        "search.learning_rate=0.1",
        "search.settings.darts.learning_rate=0.1",
        "latency.operator_seconds=0.1",
        f"train.epochs={epochs}",
        "train.batch_size=32",
        "train.learning_rate=0.1",
        "train.weight_decay=5e-4",
        f"controls={controls}",
    ]


def inline(value: Any) -> str:
    """A value as TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def write(row: dict[str, Any]) -> None:
    """Append a row and print it."""
    append_row(f"microcontroller_{row.pop('what')}", row)
    print(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["sizes", "search"])
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--controls", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.what == "sizes":
        compare_sizes(arguments.networks)
        return
    for seed in arguments.seeds:
        search(seed, arguments.steps, arguments.epochs, arguments.controls)


if __name__ == "__main__":
    main()
