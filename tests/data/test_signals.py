"""Generated signals: their classes can be told, and need their raw units normalised."""

from __future__ import annotations

import numpy as np

from hwnas.data import load_dataset
from hwnas.data.signals import CLASSES, ORDERS, TIMES, WIDTH


def test_a_matched_filter_tells_the_classes() -> None:
    data = load_dataset("generated-signals")
    assert data.input_shape == (3, 1, TIMES)
    assert (data.task, data.classes) == ("signal-classification", CLASSES)
    pulse = np.exp(-((np.arange(-6, 7) / WIDTH) ** 2) / 2)
    signals = data.normalise(data.test.inputs)[:, :, 0].numpy()
    filtered = [[np.convolve(row, pulse, "same") for row in sample] for sample in signals]
    orders = np.array(filtered).argmax(axis=2).argsort(axis=1)
    found = [ORDERS.index(tuple(order)) for order in orders.tolist()]
    assert np.mean(np.array(found) == data.test.targets) > 0.99


def test_the_sensors_have_units_of_their_own() -> None:
    data = load_dataset("generated-signals")
    assert max(data.std) > 1000 * min(data.std)
    normalised = data.normalise(data.train.inputs)
    assert np.allclose(normalised.mean(dim=(0, 2, 3)), 0, atol=1e-3)
    assert np.allclose(normalised.std(dim=(0, 2, 3)), 1, atol=1e-2)
