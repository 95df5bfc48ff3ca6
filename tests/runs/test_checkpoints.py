"""Checkpoints survive a crash at any write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hwnas import durable
from hwnas.durable import write_atomic
from hwnas.runs import checkpoints
from hwnas.runs.checkpoints import load_checkpoint, save_checkpoint


def state_of(step: int) -> dict:
    generator = torch.Generator().manual_seed(step)
    return {
        "step": step,
        "weights": torch.randn(3, 4, generator=generator),
        "optimizer": {"state": {0: {"momentum": torch.randn(5, generator=generator)}}, "lr": 0.1},
        "nested": [1, "two", None, True, torch.arange(step)],
    }


def assert_same(found, expected) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    else:
        assert found == expected
        assert type(found) is type(expected)


def test_round_trip_keeps_types_and_values(tmp_path) -> None:
    save_checkpoint(tmp_path, "search", 7, state_of(7))
    loaded = load_checkpoint(tmp_path, "search")
    assert loaded is not None
    assert loaded[0] == 7
    assert_same(loaded[1], state_of(7))


def test_an_optimizer_goes_on_as_if_never_stopped(tmp_path) -> None:
    def steps(parameter, optimizer, count) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            (parameter**2).sum().backward()
            optimizer.step()

    def fresh():
        parameter = torch.ones(3, requires_grad=True)
        return parameter, torch.optim.Adam([parameter], lr=0.1)

    whole, optimizer = fresh()
    steps(whole, optimizer, 5)
    first, optimizer = fresh()
    steps(first, optimizer, 2)
    save_checkpoint(tmp_path, "search", 2, {"p": first.detach(), "o": optimizer.state_dict()})
    loaded = load_checkpoint(tmp_path, "search")
    assert loaded is not None
    second, optimizer = fresh()
    with torch.no_grad():
        second.copy_(loaded[1]["p"])
    optimizer.load_state_dict(loaded[1]["o"])
    steps(second, optimizer, 3)
    assert torch.equal(second, whole)


class Crash(Exception):
    pass


def crashing_after(monkeypatch, calls: int) -> None:
    """Let `calls` operations on the disk happen; fail at each later one, part-way if a write."""
    left = [calls]

    def counted(function, partial=None):
        def call(*args, **kwargs):
            if left[0] == 0:
                if partial is not None:
                    partial(*args)
                raise Crash
            left[0] -= 1
            return function(*args, **kwargs)

        return call

    def half_written(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])

    for module in (checkpoints, durable):
        write = counted(module.write_synced, half_written)
        monkeypatch.setattr(module, "write_synced", write)
        monkeypatch.setattr(module, "sync_folder", counted(module.sync_folder))
    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(checkpoints.shutil, "rmtree", counted(checkpoints.shutil.rmtree))


def test_crash_at_every_write_leaves_a_known_state(tmp_path) -> None:
    crashes = 0
    for calls in range(40):
        folder = tmp_path / str(calls)
        save_checkpoint(folder, "search", 1, state_of(1))
        save_checkpoint(folder, "search", 2, state_of(2))
        with pytest.MonkeyPatch.context() as patch:
            crashing_after(patch, calls)
            try:
                save_checkpoint(folder, "search", 3, state_of(3))
            except Crash:
                crashes += 1
        loaded = load_checkpoint(folder, "search")
        assert loaded is not None
        assert loaded[0] in (2, 3)
        assert_same(loaded[1], state_of(loaded[0]))
        assert not list(folder.glob(".*"))
    assert crashes >= 8


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, caplog, name, damage) -> None:
    save_checkpoint(tmp_path, "train", 1, state_of(1))
    save_checkpoint(tmp_path, "train", 2, state_of(2))
    file = tmp_path / "train-00000002" / name
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(data[:-3])
    else:
        file.unlink()
    loaded = load_checkpoint(tmp_path, "train")
    assert loaded is not None
    assert loaded[0] == 1
    assert "train-00000002" in caplog.text


def test_only_the_newest_two_are_kept_and_stages_do_not_mix(tmp_path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, "search", step, state_of(step))
    save_checkpoint(tmp_path, "train", 9, state_of(9))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "search-00000002",
        "search-00000003",
        "train-00000009",
    ]
    assert load_checkpoint(tmp_path, "other") is None


def test_what_cannot_be_stored_is_refused(tmp_path) -> None:
    with pytest.raises(TypeError, match="state.bad"):
        save_checkpoint(tmp_path, "search", 1, {"bad": object()})


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, "old")
    crashing_after(monkeypatch, 0)
    with pytest.raises(Crash):
        write_atomic(file, "new and longer")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
