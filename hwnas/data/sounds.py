"""Short sounds of one class each as log-mel spectrograms: folders of WAV files, and synthesised
keywords whose truth is known.

A spectrogram is (1, MELS, frames) float32: the natural logarithm of the energy in bands that are
equally wide on the mel scale. All sounds are brought to one rate and one length.
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from hwnas.data.formats import RawData, seeded_rng, subset_indices
from hwnas.data.image_folder import class_folders
from hwnas.errors import InputError

TASK = "audio-keywords"
RATE = 8000
"""Samples a second."""
SECONDS = 1.0
SAMPLES = int(RATE * SECONDS)
WINDOW, HOP, MELS = 256, 128, 32
"""Samples of a window and between windows, and bands."""
FLOOR = 1e-6
"""Added to an energy before its logarithm."""
MOST_SECONDS = 60
"""Of a file."""
TRAIN, TEST = 1600, 400
"""Synthesised sounds."""
SYLLABLES = {"rise": (400, 1600), "fall": (1600, 400), "low": (500, 500), "high": (1500, 1500)}
"""Frequencies in Hz at the beginning and at the end."""
KEYWORDS = tuple(f"{a}-{b}" for a in SYLLABLES for b in SYLLABLES if a != b)


def log_mel(sounds: np.ndarray) -> np.ndarray:
    """Spectrograms (N, 1, MELS, frames) float32 of sounds (N, samples) in -1..1.

    Windows of Hann, power spectra, triangular bands of `mel_bands`, then a logarithm. What fills
    no window at the end is left out.
    """
    window, bands = np.hanning(WINDOW + 1)[:-1], mel_bands()
    found = []
    # One after the other: spectra take many times the memory of sounds.
    for sound in sounds:
        frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]
        power = np.abs(np.fft.rfft(frames * window)) ** 2
        found.append(np.log(bands @ power.T + FLOOR))
    return np.stack(found)[:, None].astype(np.float32)


def mel_bands() -> np.ndarray:
    """Weights (MELS, WINDOW // 2 + 1) of frequencies in bands.

    The mel scale is that of O'Shaughnessy, "Speech Communication", 1987: 2595 log10(1 + f / 700).
    A band rises from the middle of the one before to its own and falls to that of the next.
    """
    highest = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, MELS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)
    left, middle, right = (corners[i : i + MELS, None] for i in range(3))
    rising = (frequencies - left) / (middle - left)
    falling = (right - frequencies) / (right - middle)
    return np.maximum(0, np.minimum(rising, falling))


def generated_keywords() -> RawData:
    """Keywords of two syllables, each a tone with harmonics that glides or stays.

    Pitch, speed, loudness, onset and a background of noise differ from sound to sound; only the
    order of the glides tells keywords apart.
    """
    arrays = []
    for name, count in (("train", TRAIN), ("test", TEST)):
        rng = seeded_rng(0, f"keywords {name}")
        labels = rng.integers(0, len(KEYWORDS), count)
        sounds = np.stack([_keyword(KEYWORDS[label], rng) for label in labels])
        arrays += [log_mel(sounds), labels]
    return _raw_data(KEYWORDS, *arrays)


def _keyword(name: str, rng: np.random.Generator) -> np.ndarray:
    """A sound (SAMPLES,) in -1..1."""
    pitch = rng.uniform(0.8, 1.25)
    parts = [_syllable(*SYLLABLES[part], pitch, rng) for part in name.split("-")]
    pause = np.zeros(int(rng.uniform(0.02, 0.08) * RATE))
    word = np.concatenate([parts[0], pause, parts[1]])
    sound = rng.uniform(0.01, 0.05) * rng.standard_normal(SAMPLES)
    onset = int(rng.integers(0, SAMPLES - len(word) + 1))
    sound[onset : onset + len(word)] += rng.uniform(0.2, 0.7) * word
    return np.clip(sound, -1, 1)


def _syllable(start_hz: float, end_hz: float, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """A glide between two frequencies with weaker harmonics, faded in and out."""
    length = int(rng.uniform(0.2, 0.4) * RATE)
    phase = 2 * np.pi * np.cumsum(pitch * np.linspace(start_hz, end_hz, length)) / RATE
    tone = sum(np.sin(k * phase) / k for k in (1, 2)) / 1.5
    return np.hanning(length) * tone


def read_sound_folder(path: Path, limits: tuple[int | None, int | None], seed: int) -> RawData:
    """Read train/<class>/*.wav and test/<class>/*.wav.

    Several channels are averaged, other rates interpolated linearly; a sound is cut off or padded
    with silence at its end.

    Raises:
        InputError: a missing folder, a class without sounds, a file that cannot be read.
    """
    classes = class_folders(path / "train", "sounds")
    arrays = []
    for name, limit in zip(("train", "test"), limits, strict=True):
        files, labels = [], []
        for label, known in enumerate(classes):
            found = sorted((path / name / known).glob("*.wav"))
            files += found
            labels += [label] * len(found)
        if len(set(labels)) < (len(classes) if name == "train" else 1):
            raise InputError("a class without sounds", where=str(path / name), expected="*.wav")
        chosen = subset_indices(len(files), limit, seed, name)
        sounds = np.stack([read_wav(files[index]) for index in chosen])
        arrays += [log_mel(sounds), np.array(labels)[chosen]]
    return _raw_data(classes, *arrays)


def read_wav(path: Path) -> np.ndarray:
    """A sound (SAMPLES,) float64 in -1..1.

    Raises:
        InputError: no WAV file of 8, 16 or 32 bit samples, or one longer than a minute.
    """
    where = str(path)
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate, count = file.getparams()[:4]
            if not 0 < count <= MOST_SECONDS * rate or not 0 < channels <= 16:
                actual = f"{count} samples of {channels} channels at {rate} Hz"
                expected = f"1 sample to {MOST_SECONDS} s"
                raise InputError("empty or too long", where=where, expected=expected, actual=actual)
            content = file.readframes(count)
    except (wave.Error, EOFError, OSError) as error:
        raise InputError("not a WAV file", where=where, actual=error) from None
    except RuntimeError:
        # Without a message: a chunk is said to end outside the file.
        raise InputError("not a WAV file", where=where, actual="wrong sizes of chunks") from None
    types = {1: "u1", 2: "<i2", 4: "<i4"}
    if width not in types or len(content) != count * channels * width:
        raise InputError(
            "another kind of samples, or fewer than stated",
            where=where,
            expected="8, 16 or 32 bits each",
            actual=f"{8 * width} bits, {len(content)} bytes",
        )
    values = np.frombuffer(content, np.dtype(types[width])).reshape(count, channels).mean(axis=1)
    values = values / 128 - 1 if width == 1 else values / 2 ** (8 * width - 1)
    if rate != RATE:
        places = np.arange(int(count * RATE / rate)) * rate / RATE
        values = np.interp(places, np.arange(count), values)
    return np.pad(values[:SAMPLES], (0, max(0, SAMPLES - len(values))))


def _raw_data(
    classes: tuple[str, ...],
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
) -> RawData:
    reading = {"sample_rate": RATE, "samples": SAMPLES, "window": WINDOW, "hop": HOP, "mels": MELS}
    return RawData(classes, x_train, y_train, x_test, y_test, task=TASK, reading=reading)
