"""Short labelled sounds as log-mel spectrograms, from folders of WAV files or synthesised.

A spectrogram is (1, MELS, frames) float32: the natural logarithm of the energy in frequency bands
that are equally wide on the mel scale. All sounds are resampled to one rate and cut or padded to
one length.
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
"""Sample rate in Hz, to which every sound is resampled."""
SECONDS = 1.0
SAMPLES = int(RATE * SECONDS)
"""Number of samples to which every sound is cut or padded."""
WINDOW, HOP, MELS = 256, 128, 32
"""Samples per window, samples between the starts of windows, and number of mel bands."""
FLOOR = 1e-6
"""Added to every energy before the logarithm."""
MAX_SECONDS = 60
"""Longest accepted WAV file."""
TRAIN, TEST = 1600, 400
"""Number of synthesised sounds in each split."""
SYLLABLES = {"rise": (400, 1600), "fall": (1600, 400), "low": (500, 500), "high": (1500, 1500)}
"""Frequency of each syllable in Hz at its start and at its end."""
KEYWORDS = tuple(f"{a}-{b}" for a in SYLLABLES for b in SYLLABLES if a != b)


def log_mel(sounds: np.ndarray) -> np.ndarray:
    """Return the spectrograms (N, 1, MELS, frames) float32 of sounds (N, samples) in -1..1.

    Power spectra of Hann windows are summed in the triangular bands of `mel_bands`; the result is
    the logarithm of these energies. Samples at the end that do not fill a window are ignored.
    """
    window, bands = np.hanning(WINDOW + 1)[:-1], mel_bands()
    found = []
    # One sound at a time, because spectra need many times the memory of the sounds.
    for sound in sounds:
        frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]
        power = np.abs(np.fft.rfft(frames * window)) ** 2
        found.append(np.log(bands @ power.T + FLOOR))
    return np.stack(found)[:, None].astype(np.float32)


def mel_bands() -> np.ndarray:
    """Return the weight (MELS, WINDOW // 2 + 1) of each frequency in each mel band.

    The mel scale is that of O'Shaughnessy, "Speech Communication", 1987: 2595 log10(1 + f / 700).
    Each band is a triangle that peaks at its own centre and reaches zero at the centres of its
    neighbours.
    """
    highest = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, MELS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)
    left, middle, right = (corners[i : i + MELS, None] for i in range(3))
    rising = (frequencies - left) / (middle - left)
    falling = (right - frequencies) / (right - middle)
    return np.maximum(0, np.minimum(rising, falling))


def generated_keywords() -> RawData:
    """Synthesise keywords of two syllables: tones with one harmonic, gliding or constant.

    Pitch, speed, loudness, onset and background noise vary at random; keywords differ only in
    their sequence of syllables.
    """
    arrays = []
    for name, count in (("train", TRAIN), ("test", TEST)):
        rng = seeded_rng(0, f"keywords {name}")
        labels = rng.integers(0, len(KEYWORDS), count)
        sounds = np.stack([_keyword(KEYWORDS[label], rng) for label in labels])
        arrays += [log_mel(sounds), labels]
    return _raw_data(KEYWORDS, *arrays)


def _keyword(name: str, rng: np.random.Generator) -> np.ndarray:
    """Synthesise a keyword as a sound (SAMPLES,) in -1..1."""
    pitch = rng.uniform(0.8, 1.25)
    parts = [_syllable(*SYLLABLES[part], pitch, rng) for part in name.split("-")]
    pause = np.zeros(int(rng.uniform(0.02, 0.08) * RATE))
    word = np.concatenate([parts[0], pause, parts[1]])
    sound = rng.uniform(0.01, 0.05) * rng.standard_normal(SAMPLES)
    onset = int(rng.integers(0, SAMPLES - len(word) + 1))
    sound[onset : onset + len(word)] += rng.uniform(0.2, 0.7) * word
    return np.clip(sound, -1, 1)


def _syllable(start_hz: float, end_hz: float, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Synthesise a glide between two frequencies with a weaker harmonic, faded in and out."""
    length = int(rng.uniform(0.2, 0.4) * RATE)
    phase = 2 * np.pi * np.cumsum(pitch * np.linspace(start_hz, end_hz, length)) / RATE
    tone = sum(np.sin(k * phase) / k for k in (1, 2)) / 1.5
    return np.hanning(length) * tone


def read_sound_folder(path: Path, limits: tuple[int | None, int | None], seed: int) -> RawData:
    """Read train/<class>/*.wav and test/<class>/*.wav.

    Args:
        path: folder with the folders of both splits.
        limits: largest number of training and of test samples, applied before any sound is read;
            None for all.
        seed: selects the samples where a limit applies.

    Returns:
        Log-mel spectrograms (N, 1, MELS, frames) float32 and labels (N,).

    Raises:
        InputError: a folder is missing, a class has no sounds, or a file cannot be read.
    """
    classes = class_folders(path / "train", "sounds")
    arrays = []
    for name, limit in zip(("train", "test"), limits, strict=True):
        files, labels = [], []
        for label, known in enumerate(classes):
            found = sorted((path / name / known).glob("*.wav"))
            files += found
            labels += [label] * len(found)
        without = [known for label, known in enumerate(classes) if label not in labels]
        if without and name == "train":
            raise InputError(
                "a class without sounds",
                where=str(path / name / without[0]),
                expected="files *.wav",
            )
        if not labels:
            raise InputError(
                "no sounds",
                where=str(path / name),
                expected=f"files *.wav in the folders {', '.join(classes)}",
            )
        chosen = subset_indices(len(files), limit, seed, name)
        sounds = np.stack([read_wav(files[index]) for index in chosen])
        arrays += [log_mel(sounds), np.array(labels)[chosen]]
    return _raw_data(classes, *arrays)


def read_wav(path: Path) -> np.ndarray:
    """Read a WAV file as a sound (SAMPLES,) float64 in -1..1.

    Channels are averaged, other sample rates are interpolated linearly to `RATE`, and the sound is
    cut or padded with silence at its end.

    Raises:
        InputError: the file is not a WAV file with 8, 16 or 32 bits per sample, is empty or is
            longer than a minute.
    """
    where = str(path)
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate, count = file.getparams()[:4]
            if not 0 < count <= MAX_SECONDS * rate or not 0 < channels <= 16:
                raise InputError(
                    "the sound is empty or too long, or has too many channels",
                    where=where,
                    expected=f"1 sample to {MAX_SECONDS} s, 1 to 16 channels",
                    actual=f"{count} samples of {channels} channels at {rate} Hz",
                )
            content = file.readframes(count)
    except (wave.Error, EOFError, OSError) as error:
        raise InputError("not a WAV file", where=where, actual=error) from None
    except RuntimeError:
        # Raised without a message for a chunk that ends outside the file.
        raise InputError(
            "not a WAV file", where=where, actual="a chunk with a wrong size"
        ) from None
    types = {1: "u1", 2: "<i2", 4: "<i4"}
    if width not in types or len(content) != count * channels * width:
        raise InputError(
            "unsupported sample width, or fewer samples than the header declares",
            where=where,
            expected=f"{count} samples of 8, 16 or 32 bits on {channels} channels",
            actual=f"samples of {8 * width} bits, {len(content)} bytes in all",
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
