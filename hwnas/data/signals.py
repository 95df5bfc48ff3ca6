"""Generated signals of several sensors, whose classes are known by construction."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from hwnas.data.arrays import KIND
from hwnas.data.formats import RawData, seeded_rng
from hwnas.data.targets import CLASSIFICATION

SENSORS, TIMES = 3, 64
ORDERS = tuple(permutations(range(SENSORS)))
"""The order of the sensors in each class, from the first to the last that a pulse reaches."""
CLASSES = tuple("-".join("abc"[sensor] for sensor in order) for order in ORDERS)
OFFSETS, UNITS = np.array([9.8, -120.0, 0.02]), np.array([2.0, 35.0, 0.005])
"""What each sensor shows at rest, and how far a pulse of height 1 moves it."""
WIDTH = 2.0
"""Standard deviation of a pulse in times."""
NOISE = 0.2
TRAIN, TEST = 1800, 600


def generated_signals() -> RawData:
    """Generate signals (N, SENSORS, 1, TIMES) of a pulse that reaches the sensors one by one.

    The class is the order of the sensors. Onset, delays and heights vary at random; the delays are
    at least three widths of the pulse and its height at least 5 times the noise, so that the
    highest places of the smoothed signals tell nearly every class.
    """
    arrays: list[np.ndarray] = []
    for split, count in (("train", TRAIN), ("test", TEST)):
        rng = seeded_rng(0, f"signals {split}")
        labels = rng.integers(0, len(ORDERS), count)
        onsets, delays = rng.uniform(4, 20, (count, 1)), rng.uniform(6, 18, (count, SENSORS - 1))
        arrivals = np.concatenate([onsets, onsets + np.cumsum(delays, axis=1)], axis=1)
        places = np.argsort(np.array(ORDERS)[labels], axis=1)  # of each sensor in its order
        centres = np.take_along_axis(arrivals, places, axis=1)[..., None]
        heights = rng.uniform(1, 2, (count, SENSORS, 1))
        pulses = heights * np.exp(-(((np.arange(TIMES) - centres) / WIDTH) ** 2) / 2)
        noisy = pulses + NOISE * rng.standard_normal(pulses.shape)
        signals = OFFSETS[:, None] + UNITS[:, None] * noisy
        arrays += [signals.astype(np.float32)[:, :, None], labels]
    x_train, y_train, x_test, y_test = arrays
    return RawData(
        CLASSES,
        x_train,
        y_train,
        x_test,
        y_test,
        CLASSIFICATION["signal"],
        reading={KIND: "signal"},
    )
