"""Masks, shifts and noise of sounds and signals, and words that are dropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwnas.data import Augmentation, load_dataset
from hwnas.data.augmentation.sequences import with_dropped_tokens


@pytest.mark.parametrize("name, axis", [("frequency_mask", 2), ("time_mask", 3)])
def test_a_mask_is_one_interval_of_every_width_and_place(name: str, axis: int) -> None:
    samples = torch.rand(1500, 2, 6, 7) + 1
    result = Augmentation(**{name: 3}).apply(samples, np.random.default_rng(0))
    holes = (result == 0).all(dim=1).all(dim=4 - axis)  # bands or times that are blanked
    assert torch.equal(result, samples * ~(result == 0))
    seen = {tuple(np.flatnonzero(hole)) for hole in holes.numpy()}
    size = samples.shape[axis]
    expected = {tuple(range(s, s + w)) for w in (1, 2, 3) for s in range(size - w + 1)}
    assert seen == expected | {()}


def test_shifted_samples_repeat_their_ends() -> None:
    signal = torch.arange(1.0, 8).expand(300, 2, 1, 7)
    result = Augmentation(time_shift=2).apply(signal, np.random.default_rng(0))
    expected = {
        tuple(np.clip(np.arange(1, 8) - move, 1, 7).tolist()): move for move in range(-2, 3)
    }
    seen = [expected[tuple(row)] for row in result[:, 1, 0].tolist()]
    assert set(seen) == set(range(-2, 3))


def test_noise_has_the_stated_deviation_and_no_mean() -> None:
    result = Augmentation(noise=0.3).apply(torch.ones(50, 3, 1, 200), np.random.default_rng(0))
    assert float(result.mean()) == pytest.approx(1, abs=0.01)
    assert float(result.std()) == pytest.approx(0.3, abs=0.01)


def test_dropped_words_become_unknown_and_padding_stays() -> None:
    tokens = torch.randint(2, 50, (200, 30))
    tokens[:, 20:] = 0
    rng = np.random.default_rng(0)
    result = with_dropped_tokens(tokens, 0.2, unknown=1, kept=[0], rng=rng)
    assert torch.equal(result[:, 20:], tokens[:, 20:])
    dropped = result[:, :20] != tokens[:, :20]
    assert (result[:, :20][dropped] == 1).all()
    assert float(dropped.float().mean()) == pytest.approx(0.2, abs=0.02)


def test_texts_lose_words_in_training_batches_alone() -> None:
    data = load_dataset("generated-text", train_limit=100, test_limit=20)
    tokens = data.normalise(data.train.inputs)
    targets = torch.from_numpy(data.train.targets)
    rng = np.random.default_rng(0)
    found, same = Augmentation(token_dropout=0.5).apply_to_batch(tokens, targets, data, rng)
    assert torch.equal(same, targets)
    changed = found != tokens
    assert set(found[changed].tolist()) == {data.vocabulary.index("<unknown>")}
    assert not changed[tokens == data.vocabulary.index("<padding>")].any()
