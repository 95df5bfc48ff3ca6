"""Short labelled sounds as log-mel spectrograms, from folders of sound files or synthesised.

A spectrogram is (1, MELS, frames) float32: the natural logarithm of the energy in frequency bands
that are equally wide on the mel scale. Sound files are decoded by libsndfile. All sounds are
resampled to one rate by soxr, whose low-pass filter removes the frequencies that the new rate
cannot represent, and are cut or padded to one length.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import numpy as np

from hwnas.data.class_folders import FileKind, list_class_folders
from hwnas.data.damaged_files import DamagedFiles
from hwnas.data.formats import RawData, seeded_rng
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
MAX_SECONDS, MAX_CHANNELS, MAX_RATE = 60, 16, 768_000
"""Limits on a sound file."""
MAX_VALUE = 1e9
"""Largest magnitude of a sample; floating-point formats can hold more than the usual -1..1."""
MARGIN_SECONDS = 0.25
"""How much more of a sound than `SECONDS` is resampled, so that its end is filtered as a whole."""
SOUNDS = FileKind(
    "sounds",
    (
        ".aif",
        ".aifc",
        ".aiff",
        ".au",
        ".caf",
        ".flac",
        ".mp3",
        ".oga",
        ".ogg",
        ".opus",
        ".rf64",
        ".w64",
        ".wav",
        ".wave",
    ),
)
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
    """Read train/<class>/ and test/<class>/ (or val/<class>/) in the order of the file names.

    `hwnas.data.class_folders` describes which files are read.

    Args:
        path: folder with the folders of both splits.
        limits: largest number of training and of test samples, applied before any sound is read;
            None for all.
        seed: selects the samples where a limit applies.

    Returns:
        Log-mel spectrograms (N, 1, MELS, frames) float32 and labels (N,).

    Raises:
        InputError: a folder is missing, a class has no sounds, or files cannot be read.
    """
    folders = list_class_folders(path, SOUNDS, limits, seed)
    files = [*folders.train, *folders.test]
    damaged = DamagedFiles(files, "sounds")
    sounds = np.zeros((len(files), SAMPLES))
    for sound, file in zip(sounds, files, strict=True):
        with damaged.collecting(file):
            sound[:] = read_sound(file)
    damaged.refuse_if_any()
    x_train, x_test = np.split(log_mel(sounds), [len(folders.train)])
    raw = _raw_data(folders.classes, x_train, folders.y_train, x_test, folders.y_test)
    return raw._replace(notes=folders.notes)


def read_sound(path: Path) -> np.ndarray:
    """Read a sound file as a sound (SAMPLES,) float64, in -1..1 unless it is louder.

    Channels are averaged, other sample rates are resampled to `RATE` behind a low-pass filter,
    and the sound is cut or padded with silence at its end.

    Args:
        path: a file in a format of libsndfile: WAV with any of its encodings (8 to 32 bits,
            floating point, companded, extensible), FLAC, Ogg, MP3, AIFF and others.

    Raises:
        InputError: the file is missing, damaged or truncated, is empty, longer than a minute or
            has too many channels, or a sample is not a finite number.
    """
    import soxr

    values, rate = _decoded(path)
    if not (np.abs(values) <= MAX_VALUE).all():
        raise InputError(
            "a sample is not finite, or far too large",
            where=str(path),
            expected="numbers in -1..1",
        )
    mono = values.mean(axis=1)
    if rate != RATE:
        mono = soxr.resample(mono, rate, RATE, quality="HQ")
    return np.pad(mono[:SAMPLES], (0, max(0, SAMPLES - len(mono))))


read_wav = read_sound
"""Alias for callers that read WAV files."""


def _decoded(path: Path) -> tuple[np.ndarray, int]:
    """Return the beginning of a sound (samples, channels) float64 and its sample rate in Hz."""
    import soundfile

    where, cause = str(path), f"not a {path.suffix[1:].upper()} file that can be read"
    try:
        _check_chunks(path)
        with soundfile.SoundFile(path) as file:
            rate, channels, count = file.samplerate, file.channels, file.frames
            is_usable = 0 < count <= MAX_SECONDS * rate and 0 < rate <= MAX_RATE
            if not is_usable or not 0 < channels <= MAX_CHANNELS:
                raise InputError(
                    "the sound is empty or too long, or has too many channels",
                    where=where,
                    expected=f"1 sample to {MAX_SECONDS} s, 1 to {MAX_CHANNELS} channels",
                    actual=f"{count} samples of {channels} channels at {rate} Hz",
                )
            needed = min(count, math.ceil((SECONDS + MARGIN_SECONDS) * rate))
            values = file.read(needed, dtype="float64", always_2d=True)
    except FileNotFoundError:
        raise InputError("no such sound", where=where, expected="a sound file") from None
    except (OSError, RuntimeError, ValueError, TypeError, struct.error) as error:
        found = getattr(error, "error_string", error)  # libsndfile's, without the path
        raise InputError(cause, where=where, actual=found) from None
    if len(values) < needed:
        raise InputError(
            "the sound is truncated or damaged",
            where=where,
            expected=f"{count} samples as its header says",
            actual=f"{len(values)} samples that can be read",
        )
    return values, rate


def _check_chunks(path: Path) -> None:
    """Raise ValueError if a chunk of a WAV file, which libsndfile would cut, is incomplete."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        form = file.read(12)
        if form[:4] != b"RIFF" or form[8:] != b"WAVE":
            return
        while len(header := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", header)
            # Programs that write to a pipe do not know the length of the samples.
            if name == b"data" and (length == 0 or length >= 0x7FFF0000):
                return
            if file.tell() + length > size:
                raise ValueError(
                    f"chunk {name.decode('latin-1')!r} of {length} bytes in a file of {size} bytes"
                )
            if name == b"data":
                return
            file.seek(length + length % 2, os.SEEK_CUR)


def _raw_data(
    classes: tuple[str, ...],
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
) -> RawData:
    reading = {"sample_rate": RATE, "samples": SAMPLES, "window": WINDOW, "hop": HOP, "mels": MELS}
    return RawData(classes, x_train, y_train, x_test, y_test, task=TASK, reading=reading)
