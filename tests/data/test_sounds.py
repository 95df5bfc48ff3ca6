"""Sounds: log-mel spectrograms against SciPy, WAV files that are right or broken, keywords."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import damaged, fuzz, loads_or_is_refused, refusal
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import ShortTimeFFT

from hwnas.data import load_dataset
from hwnas.data.sounds import (
    FLOOR,
    HOP,
    KEYWORDS,
    MELS,
    RATE,
    SAMPLES,
    WINDOW,
    log_mel,
    mel_bands,
    read_wav,
)


def save_wav(path: Path, sound: np.ndarray, rate: int = RATE, width: int = 2) -> Path:
    """`sound` is (samples,) or (samples, channels), -1..1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.atleast_2d(sound.T).T
    if width == 1:
        stored = np.round(values * 127 + 128).astype(np.uint8)
    else:
        stored = np.round(values * (2 ** (8 * width - 1) - 1)).astype(f"<i{width}")
    with wave.open(str(path), "wb") as file:
        file.setparams((values.shape[1], width, rate, len(values), "NONE", ""))
        file.writeframes(stored.tobytes())
    return path


def test_spectrograms_are_those_of_scipy(rng) -> None:
    sounds = rng.uniform(-1, 1, (2, SAMPLES))
    window = np.hanning(WINDOW + 1)[:-1]
    transform = ShortTimeFFT(window, HOP, RATE, fft_mode="onesided")
    expected = []
    for sound in sounds:
        # SciPy's windows are centred: the first that lies within the sound begins at 0.
        first, last = transform.lower_border_end[1], transform.upper_border_begin(SAMPLES)[1]
        power = np.abs(transform.stft(sound, p0=first, p1=last)) ** 2
        expected.append(np.log(mel_bands() @ power + FLOOR))
    found = log_mel(sounds)
    assert found.dtype == np.float32
    assert found.shape[1:3] == (1, MELS)
    frames = min(found.shape[3], expected[0].shape[1])
    assert frames >= found.shape[3] - 1
    np.testing.assert_allclose(
        found[:, 0, :, :frames], np.stack(expected)[:, :, :frames], rtol=1e-4, atol=1e-4
    )


def test_bands_are_triangles_that_cover_all_but_the_ends() -> None:
    bands = mel_bands()
    peaks = bands.argmax(axis=1)
    assert (np.diff(peaks) >= 0).all()
    assert bands.max() <= 1
    # Neighbours add up to 1 between the first and the last middle.
    inner = slice(peaks[0] + 1, peaks[-1])
    np.testing.assert_allclose(bands[:, inner].sum(axis=0), 1, atol=1e-9)


@pytest.mark.parametrize("hz", [300, 1000, 3000])
def test_a_tone_is_in_its_band(hz: float) -> None:
    tone = np.sin(2 * np.pi * hz * np.arange(SAMPLES) / RATE)
    loudest = log_mel(tone[None])[0, 0].mean(axis=1).argmax()
    mel = 2595 * np.log10(1 + np.array([hz, RATE / 2]) / 700)
    assert abs(loudest + 1 - mel[0] / mel[1] * (MELS + 1)) <= 1


@pytest.mark.parametrize("width", [1, 2, 4])
def test_files_are_read_as_they_were_written(tmp_path: Path, rng, width: int) -> None:
    sound = rng.uniform(-0.9, 0.9, SAMPLES)
    found = read_wav(save_wav(tmp_path / "x.wav", sound, width=width))
    np.testing.assert_allclose(found, sound, atol=2.5 / 2 ** (8 * width - 1))


def test_channels_rates_and_lengths_become_one(tmp_path: Path) -> None:
    seconds = np.arange(RATE) / RATE / 2
    tone = 0.5 * np.sin(2 * np.pi * 200 * seconds)
    both = np.stack([tone, np.zeros_like(tone)], axis=1)
    # Half a second at twice the rate, on one of two channels.
    found = read_wav(save_wav(tmp_path / "x.wav", both, rate=2 * RATE))
    half = SAMPLES // 2
    np.testing.assert_allclose(found[:half], tone[::2] / 2, atol=1e-3)
    assert found.shape == (SAMPLES,)
    assert not found[half:].any()


def folder(path: Path) -> Path:
    for split, count in (("train", 3), ("test", 1)):
        for label, hz in (("high", 2000), ("low", 300)):
            for i in range(count):
                tone = np.sin(2 * np.pi * (hz + i) * np.arange(SAMPLES) / RATE)
                save_wav(path / split / label / f"{i}.wav", tone)
    return path


def test_folders_of_classes(tmp_path: Path) -> None:
    data = load_dataset("sounds", str(folder(tmp_path)))
    assert data.task == "audio-keywords"
    assert data.classes == ("high", "low")
    assert data.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.reading["sample_rate"] == RATE
    loudest = data.train.inputs[:, 0].mean(axis=2).argmax(axis=1)
    assert loudest[:3].min() > loudest[3:].max()
    normalised = data.normalise(data.train.inputs)
    assert abs(float(normalised.mean())) < 1e-4
    assert float(normalised.std()) == pytest.approx(1, 0.01)


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    for file in (tmp_path / "train" / "low").iterdir():
        file.unlink()
    assert "a class without sounds" in refusal(load_dataset, "sounds", str(tmp_path))
    save_wav(tmp_path / "train" / "low" / "0.wav", np.zeros(0))
    assert "empty or too long" in refusal(load_dataset, "sounds", str(tmp_path))
    (tmp_path / "train" / "low" / "0.wav").write_bytes(b"RIFF")
    assert "not a WAV file" in refusal(load_dataset, "sounds", str(tmp_path))


def test_a_size_that_leads_out_of_the_file_is_refused(tmp_path: Path) -> None:
    path = save_wav(tmp_path / "x.wav", np.zeros(100))
    content = bytearray(path.read_bytes())
    content[16:20] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(content)
    assert "not a WAV file" in refusal(read_wav, path)


@fuzz
@given(draw=st.data())
def test_damaged_files_load_or_are_refused(tmp_path: Path, draw: st.DataObject) -> None:
    if not (tmp_path / "train").exists():
        folder(tmp_path)
        (tmp_path / "whole").write_bytes((tmp_path / "train" / "low" / "0.wav").read_bytes()[:500])
    content = damaged((tmp_path / "whole").read_bytes(), draw)
    (tmp_path / "train" / "low" / "0.wav").write_bytes(content)
    loads_or_is_refused("sounds", tmp_path)


def test_keywords_can_be_told_apart_by_where_their_energy_is() -> None:
    """A keyword's frequencies in its first and second half are those of its syllables."""
    data = load_dataset("generated-keywords", train_limit=200)
    assert data.classes == KEYWORDS
    assert len(set(data.train.targets.tolist())) == len(KEYWORDS)
    wanted = {"low-high": 1, "high-low": -1}
    for name, sign in wanted.items():
        own = data.train.inputs[data.train.targets == KEYWORDS.index(name), 0]
        for spectrogram in own:
            energy = np.exp(spectrogram)
            frames = np.flatnonzero(energy.sum(axis=0) > 0.2 * energy.sum(axis=0).max())
            pitch = spectrogram.argmax(axis=0)[frames]
            assert sign * (np.mean(pitch[-4:]) - np.mean(pitch[:4])) > 0
