"""Pages and event files about runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.durable import write_atomic
from hwnas.errors import InputError
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline.run import Run
from hwnas.reporting.comparison import render_comparison
from hwnas.reporting.model_card import render_model_card
from hwnas.reporting.report import render_report, render_variant
from hwnas.reporting.tensorboard import LoggedRun, write_events
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces import SearchSpace, build_space


def report(path: Path) -> Path:
    """Write the report of a run folder, or the comparison of the run folders in a folder.

    Raises:
        InputError: when there is no run.
    """
    if (path / "config.toml").exists():
        return _report_run(Run.open(path))
    folders = [RunFolder(p.parent) for p in sorted(path.glob("*/config.toml"))]
    if not folders:
        raise InputError("no run here", where=str(path), expected="a run folder")
    target = path / "report.html"
    write_atomic(target, render_comparison(folders, path))
    return target


def compare(paths: Sequence[Path], out: Path) -> Path:
    """Write the comparison of several runs.

    Raises:
        InputError: when one of the folders holds no run, or the page cannot be written.
    """
    folders = [RunFolder(path) for path in paths]
    for folder in folders:
        folder.require(folder.config)
    if not out.parent.is_dir():
        raise InputError("no such folder", where=str(out.parent), mend="create it")
    write_atomic(out, render_comparison(folders, out.parent))
    return out


def write_tensorboard(paths: Sequence[Path], logs: Path) -> None:
    """Write the histories of runs as TensorBoard's event files, a folder in `logs` for each.

    Raises:
        InputError: when one of the folders holds no run.
        RuntimeMissingError: when TensorBoard is not installed.
    """
    write_events([_logged(Run.open(path)) for path in paths], logs)


def _logged(run: Run) -> LoggedRun:
    """A run with its space, and its trained network where there is one."""
    space, network = _stated_space(run), None
    if run.folder.weights.exists():
        network = space.network(Architecture.load(run.folder.architecture))
        network.drop_training_parts()
        run.load_weights(network, run.folder.weights)
    return LoggedRun(run.folder, space, network)


def report_variant(folder: RunFolder, check: Path) -> Path:
    """Write the page of a variant's check beside its document, and return its path."""
    target = check.with_suffix(".html")
    write_atomic(target, render_variant(folder, check))
    return target


def _report_run(run: Run) -> Path:
    """Write the report and the model card; needs no data once there is an architecture."""
    folder = run.folder
    space = _stated_space(run)
    latencies: Mapping[str, float] = {}
    if folder.architecture.exists() and folder.latency_table.exists():
        cost = CostModel(space, LatencyTable.load(folder.latency_table))
        cost = cost.with_fixed(run.target.preprocessing_ms)
        latencies = cost.operator_latencies_ms(Architecture.load(folder.architecture))
    family = [m.folder for m in run.family if m.folder.config.exists()]
    write_atomic(folder.report, render_report(folder, space, latencies, family))
    card = render_model_card(folder)
    if card is not None:
        write_atomic(folder.model_card, card)
    if family:
        write_atomic(folder.front, render_comparison([folder, *family], folder.path))
    return folder.report


def _stated_space(run: Run) -> SearchSpace:
    """The space as the found architecture states it; before there is one, by the data."""
    path = run.folder.architecture
    if not path.exists():
        return run.problem.space
    stated = run.folder.read_json(path)
    where = f"{path}: space_options"
    return build_space(stated.get("space", ""), stated.get("space_options"), where)
