"""Runs on machines that fail: one line and exit code 2, or they go on; nothing is lost."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from helpers.runs import settings, table_file

pytestmark = pytest.mark.slow

FAST = ("search.evaluator='zero-cost'", "search.strategy='random'", "search.steps=4")
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def line_of(out: Path, table: Path, verb: str = "run") -> list[str]:
    line = [sys.executable, "-m", "hwnas", verb, "default", "--table", str(table), "--json"]
    for setting in settings("nasbench201", *FAST):
        line += ["--set", setting]
    resumes = ["--resume"] if (out / "config.toml").exists() else []
    return [*line, "--out", str(out), *resumes]


def called(
    line: Sequence[str],
    prefix: Sequence[str] = (),
    before: Callable[[], None] | None = None,
    **environment: str,
) -> tuple[int, str]:
    """Exit code and stderr of a command, which leaves no traceback."""
    done = subprocess.run(
        [*prefix, *line],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, **environment},
        preexec_fn=before,
        encoding="utf-8",
        errors="replace",
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def assert_whole(folder: Path) -> None:
    for file in folder.rglob("[!.]*.json"):
        if ".tmp" not in str(file):
            json.loads(file.read_text())


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
@pytest.mark.parametrize(
    "fault",
    [
        "fsync:error=EIO:when=3",
        "fsync:error=ENOSPC:when=20+",
        "rename:error=EROFS:when=2+",
        "rename:error=EIO:when=7",
        "mkdir:error=EROFS:when=1+",
        "ftruncate:error=EDQUOT:when=2+",
    ],
)
def test_a_disk_that_fails_costs_one_line_and_nothing_that_was_done(fault: str, tmp_path) -> None:
    table, out = table_file("nasbench201", tmp_path), tmp_path / "run"
    # Modules are not compiled to files, which would be the first files of a new version.
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", f"inject={fault}"]
    code, said = called(line_of(out, table, "search"), strace, PYTHONDONTWRITEBYTECODE="1")
    assert code == 2
    (line,) = [line for line in said.splitlines() if line.startswith("hwnas: ")]
    assert str(out) in line
    assert_whole(tmp_path)
    assert called(line_of(out, table, "search"))[0] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("kb", [4, 16, 48, 100])
def test_a_full_disk_costs_one_line_and_nothing_that_was_done(kb: int, tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    table = table_file("nasbench201", tmp_path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kb}k", "tmpfs", str(disk)], check=True)
    try:
        code, said = called(line_of(disk / "run", table))
        assert code == 2
        assert "No space left on device" in said.splitlines()[-1]
        assert_whole(disk)
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert called(line_of(disk / "run", table))[0] == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk that cannot be written")
def test_a_read_only_disk_is_refused_before_anything_is_done(tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    table = table_file("nasbench201", tmp_path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)], check=True)
    try:
        code, said = called(line_of(disk / "run", table))
        assert code == 2
        assert "cannot be written, got Read-only file system" in said
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_plain_locale_an_unwritable_home_and_a_long_path_do_not_matter(tmp_path) -> None:
    table = table_file("nasbench201", tmp_path)
    place = tmp_path / ("Größe mit Leerzeichen " + "ä" * 60) / ("x" * 120)
    plain = {"LC_ALL": "C", "HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none"}
    assert called(line_of(place / "run 1", table), **plain)[0] == 0
    moved = tmp_path / "moved ü"
    shutil.move(place / "run 1", moved)
    hwnas = [sys.executable, "-m", "hwnas"]
    assert called([*hwnas, "report", str(moved)], **plain)[0] == 0
    assert (
        called([*hwnas, "check", str(moved / "model.onnx"), "--run", str(moved)], **plain)[0] == 0
    )
    assert called(line_of(moved, table), **plain)[0] == 0, "nothing is left to do"


@pytest.mark.skipif(FAKETIME is None, reason="no libfaketime")
def test_a_clock_that_is_set_back_does_not_matter(tmp_path) -> None:
    table, out = table_file("nasbench201", tmp_path), tmp_path / "run"
    # The monotonic clock is set back too, as libfaketime otherwise lets no process sleep.
    faked = {"LD_PRELOAD": str(FAKETIME)}
    assert called(line_of(out, table, "search"), FAKETIME="+2d", **faked)[0] == 0
    assert called(line_of(out, table), FAKETIME="-3d", **faked)[0] == 0


def limit(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


@pytest.mark.parametrize("mb", [600, 1000, 1500, 2000, 3000])
def test_too_little_memory_costs_one_line(mb: int, tmp_path) -> None:
    table, out = table_file("nasbench201", tmp_path), tmp_path / "run"
    code, said = called(line_of(out, table), before=limit(resource.RLIMIT_AS, mb * 2**20))
    assert code in (0, 2, 3)
    if code:
        assert re.search("^hwnas: ", said.splitlines()[-1])
    assert_whole(out)


@pytest.mark.parametrize("handles", [8, 16, 32])
def test_too_few_file_handles_cost_one_line(handles: int, tmp_path) -> None:
    table, out = table_file("nasbench201", tmp_path), tmp_path / "run"
    code, said = called(line_of(out, table), before=limit(resource.RLIMIT_NOFILE, handles))
    assert code in (0, 2, 3)
    if code:
        assert re.search("^hwnas: ", said.splitlines()[-1])


def test_of_two_runs_in_one_folder_one_is_refused(tmp_path) -> None:
    table, out = table_file("nasbench201", tmp_path), tmp_path / "run"
    line = line_of(out, table)
    runs = [subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE) for _ in "ab"]
    said = [run.communicate()[1].decode() for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 2]
    refused = next(text for run, text in zip(runs, said, strict=True) if run.returncode)
    assert re.search("another process works in this folder|already holds a run", refused)
