"""Sounds: log-mel spectrograms against SciPy, valid and malformed WAV files, keywords."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.data_files import damaged, fuzz, loads_or_is_refused, refusal, save_wav
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
    read_sound,
    read_wav,
)


def test_spectrograms_match_scipy(rng) -> None:
    sounds = rng.uniform(-1, 1, (2, SAMPLES))
    window = np.hanning(WINDOW + 1)[:-1]
    transform = ShortTimeFFT(window, HOP, RATE, fft_mode="onesided")
    expected = []
    for sound in sounds:
        # SciPy's windows are centred; take those that lie within the sound.
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


def test_neighbouring_mel_bands_sum_to_one() -> None:
    bands = mel_bands()
    peaks = bands.argmax(axis=1)
    assert (np.diff(peaks) >= 0).all()
    assert bands.max() <= 1
    # This holds between the peaks of the first and the last band.
    inner = slice(peaks[0] + 1, peaks[-1])
    np.testing.assert_allclose(bands[:, inner].sum(axis=0), 1, atol=1e-9)


@pytest.mark.parametrize("hz", [300, 1000, 3000])
def test_a_tone_has_most_energy_in_its_mel_band(hz: float) -> None:
    tone = np.sin(2 * np.pi * hz * np.arange(SAMPLES) / RATE)
    loudest = log_mel(tone[None])[0, 0].mean(axis=1).argmax()
    mel = 2595 * np.log10(1 + np.array([hz, RATE / 2]) / 700)
    assert abs(loudest + 1 - mel[0] / mel[1] * (MELS + 1)) <= 1


@pytest.mark.parametrize("width", [1, 2, 4])
def test_wav_files_of_each_sample_width_are_read_exactly(tmp_path: Path, rng, width: int) -> None:
    sound = rng.uniform(-0.9, 0.9, SAMPLES)
    found = read_wav(save_wav(tmp_path / "x.wav", sound, width=width))
    np.testing.assert_allclose(found, sound, atol=2.5 / 2 ** (8 * width - 1))


def test_channels_are_averaged_and_sounds_resampled_and_padded(tmp_path: Path) -> None:
    seconds = np.arange(RATE) / RATE / 2
    tone = 0.5 * np.sin(2 * np.pi * 200 * seconds)
    both = np.stack([tone, np.zeros_like(tone)], axis=1)
    # Half a second at twice the sample rate, with a silent second channel.
    found = read_wav(save_wav(tmp_path / "x.wav", both, rate=2 * RATE))
    half = SAMPLES // 2
    # The low-pass filter rings a little where the tone begins and ends.
    np.testing.assert_allclose(found[:half], tone[::2] / 2, atol=5e-3)
    np.testing.assert_allclose(found[40 : half - 40], tone[80:-80:2] / 2, atol=1e-4)
    assert found.shape == (SAMPLES,)
    assert not found[half:].any()


def tone(hz: float, rate: int = RATE, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [16000, 11025, 22050, 44100, 48000, 96000])
def test_frequencies_above_the_limit_of_the_new_rate_are_removed(rate: int, tmp_path: Path) -> None:
    """Without a low-pass filter, 7 kHz at 16 kHz would become a tone of 1 kHz."""
    hz = min(7000, 0.45 * rate)
    found = read_sound(save_wav(tmp_path / "x.wav", tone(hz, rate), rate=rate))
    assert found[200:-200].std() < 1e-4
    kept = read_sound(save_wav(tmp_path / "x.wav", tone(1000, rate), rate=rate))
    np.testing.assert_allclose(kept[200:-200], tone(1000)[200:-200], atol=1e-3)


def test_lower_rates_are_interpolated_without_mirror_frequencies(tmp_path: Path) -> None:
    found = read_sound(save_wav(tmp_path / "x.wav", tone(1500, 4000), rate=4000))
    np.testing.assert_allclose(found[200:-200], tone(1500)[200:-200], atol=1e-3)


def test_the_end_of_a_long_sound_is_filtered_like_its_middle(tmp_path: Path) -> None:
    found = read_sound(save_wav(tmp_path / "x.wav", tone(1000, 48000, 3.0), rate=48000))
    np.testing.assert_allclose(found[200:], tone(1000)[200:], atol=1e-3)


@pytest.mark.parametrize(
    "name, subtype, digits",
    [
        ("x.wav", "PCM_U8", 2),
        ("x.wav", "PCM_24", 6),
        ("x.wav", "PCM_32", 6),
        ("x.wav", "FLOAT", 6),
        ("x.wav", "DOUBLE", 6),
        ("x.wav", "ULAW", 1),
        ("x.flac", "PCM_16", 4),
        ("x.ogg", "VORBIS", 1),
        ("x.mp3", "MPEG_LAYER_III", 1),
        ("x.aiff", "PCM_24", 6),
    ],
)
def test_formats_and_encodings_are_read(
    name: str, subtype: str, digits: int, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / name, tone(440), RATE, subtype)
    np.testing.assert_allclose(read_sound(tmp_path / name), tone(440), atol=10**-digits)


@pytest.mark.parametrize("tag, bits", [(1, 16), (1, 24), (3, 32)])
@pytest.mark.parametrize("is_extensible", [False, True])
def test_wav_files_with_either_header_are_read(
    tag: int, bits: int, is_extensible: bool, tmp_path: Path
) -> None:
    values = tone(440)
    if tag == 3:
        data = values.astype("<f4").tobytes()
    else:
        whole = (values * (2 ** (bits - 1) - 1)).astype("<i4")
        data = b"".join(int(v).to_bytes(4, "little", signed=True)[: bits // 8] for v in whole)
    align = bits // 8
    form = struct.pack(
        "<HHIIHH", 0xFFFE if is_extensible else tag, 1, RATE, RATE * align, align, bits
    )
    if is_extensible:
        guid = struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71")
        form += struct.pack("<HHI", 22, bits, 4) + guid
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(data)) + data
    file = tmp_path / "x.wav"
    file.write_bytes(b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks)
    np.testing.assert_allclose(read_sound(file), values, atol=1e-4)


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    for bad in (np.nan, np.inf, 1e30):
        soundfile.write(tmp_path / "x.wav", np.array([0, bad, 0]), RATE, "DOUBLE")
        assert "not finite, or far too large" in refusal(read_sound, tmp_path / "x.wav")


@pytest.mark.parametrize("name", ["x.wav", "x.flac"])
def test_truncated_sounds_are_refused(name: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / name, np.random.default_rng(0).uniform(-1, 1, SAMPLES), RATE)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    message = refusal(read_sound, tmp_path / name)
    assert message.startswith(str(tmp_path / name))


def test_wav_files_that_a_pipe_has_written_are_read(tmp_path: Path) -> None:
    """Their header does not know the number of samples."""
    file = save_wav(tmp_path / "x.wav", tone(440))
    content = bytearray(file.read_bytes())
    for start in (4, content.index(b"data") + 4):
        content[start : start + 4] = b"\xff" * 4
    file.write_bytes(content)
    np.testing.assert_allclose(read_sound(file), tone(440), atol=1e-4)


def test_chunks_of_odd_length_are_skipped_with_their_padding(tmp_path: Path) -> None:
    file = save_wav(tmp_path / "x.wav", tone(440))
    content = file.read_bytes()
    start = content.index(b"data")
    chunk = b"note" + struct.pack("<I", 3) + b"abc\0"
    file.write_bytes(content[:start] + chunk + content[start:])
    np.testing.assert_allclose(read_sound(file), tone(440), atol=1e-4)


def test_missing_sounds_and_sounds_over_a_minute_are_refused(tmp_path: Path) -> None:
    assert "no such sound" in refusal(read_sound, tmp_path / "x.wav")
    save_wav(tmp_path / "x.wav", np.zeros(61 * RATE))
    assert "empty or too long" in refusal(read_sound, tmp_path / "x.wav")


def save_folder(path: Path) -> Path:
    for split, count in (("train", 3), ("test", 1)):
        for label, hz in (("high", 2000), ("low", 300)):
            for i in range(count):
                tone = np.sin(2 * np.pi * (hz + i) * np.arange(SAMPLES) / RATE)
                save_wav(path / split / label / f"{i}.wav", tone)
    return path


def test_class_folders_become_labelled_spectrograms(tmp_path: Path) -> None:
    data = load_dataset("sounds", str(save_folder(tmp_path)))
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
    save_folder(tmp_path)
    for file in (tmp_path / "train" / "low").iterdir():
        file.unlink()
    assert "a class without sounds" in refusal(load_dataset, "sounds", str(tmp_path))
    save_wav(tmp_path / "train" / "low" / "0.wav", np.zeros(0))
    assert "empty or too long" in refusal(load_dataset, "sounds", str(tmp_path))
    (tmp_path / "train" / "low" / "0.wav").write_bytes(b"RIFF")
    assert "not a WAV file" in refusal(load_dataset, "sounds", str(tmp_path))


def test_a_chunk_size_beyond_the_end_of_the_file_is_refused(tmp_path: Path) -> None:
    path = save_wav(tmp_path / "x.wav", np.zeros(100))
    content = bytearray(path.read_bytes())
    content[16:20] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(content)
    assert "not a WAV file" in refusal(read_wav, path)


@fuzz
@given(draw=st.data())
def test_damaged_files_load_or_are_refused(tmp_path: Path, draw: st.DataObject) -> None:
    if not (tmp_path / "train").exists():
        save_folder(tmp_path)
        (tmp_path / "whole").write_bytes((tmp_path / "train" / "low" / "0.wav").read_bytes()[:500])
    content = damaged((tmp_path / "whole").read_bytes(), draw)
    (tmp_path / "train" / "low" / "0.wav").write_bytes(content)
    loads_or_is_refused("sounds", tmp_path)


def test_pitch_of_generated_keywords_follows_their_syllables() -> None:
    """The pitch rises from a low to a high syllable, and falls from a high to a low one."""
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
