"""Settings and tables of runs that take seconds, and the command line as a process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from helpers.tiny import table_of

from hwnas.config import load_config
from hwnas.pipeline.profile import profiled_space

SETTINGS = [
    "data.train_limit=400",
    "data.test_limit=100",
    "budget.ms=1e6",
    "latency.measure_seconds=5",
    "search.strategy='darts'",
    "search.proxy={}",
    "search.steps=12",
    "search.batch_size=8",
    "search.candidates=2",
    "search.max_measured=1",
    "search.ranking_images=50",
    "search.recalibration_batches=2",
    "search.checkpoint_every=5",
    "search.settings.darts.learning_rate=0.1",
    "train.epochs=1",
    "train.batch_size=16",
    "train.checkpoint_every=10",
    "check.measure_seconds=20",
    # Models that are trained for seconds may not be above the chance level.
    "check.min_accuracy=0.001",
]
SPACE = {
    "darts": ["space={name='darts', cells=3, channels=4, stem_multiplier=1, stem_stride=2}"],
    "elastic": [
        "space={name='elastic', layout='small', width_multiplier=0.25, head_channels=16, "
        "resolutions=[16, 28], stage_layers=2, least_layers=1, kernels=[3, 5], expansions=[1, 3]}"
    ],
    "macro": [
        "space={name='macro', stages=[{layers=[1, 2], kernel=[3, 5], width=[4, 8], stride=2}]}"
    ],
    "mbconv": ["space={name='mbconv', layout='small', width_multiplier=0.25, head_channels=16}"],
    "nasbench101": ["space={name='nasbench101', cells=1, channels=6, vertices=4}"],
    "nasbench201": ["space={name='nasbench201', cells=1, channels=4}"],
    "nasnet": [
        "space={name='nasnet', cells=1, channels=4, blocks=2, "
        "operators=['skip_connect', 'conv_3x3']}"
    ],
    "rnn": ["space={name='rnn', nodes=2, channels=8}"],
    "sequence": ["space={name='sequence', layers=2, channels=8}"],
    "vit": [
        "space={name='vit', patch=7, embeddings=[8, 12], heads=[1, 2], head_channels=4, "
        "mlp_ratios=[1.0, 2.0], blocks=2, fixed_blocks=1}"
    ],
}


def settings(space: str, *more: str) -> list[str]:
    return [*SPACE[space], *SETTINGS, *more]


def table_file(space: str, folder: Path) -> Path:
    path = folder / "table.json"
    table_of(profiled_space(load_config(None, settings(space)))).save(path)
    return path


def finish(line: list[str]) -> dict:
    done = subprocess.run(line, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    return json.loads(done.stdout)
