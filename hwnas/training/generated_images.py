"""Images that a trained generator makes, stored beside real ones to be looked at.

The file `generated_images.npz` has the arrays

    generated       (M, C, H, W) uint8 with one or three channels: images of the first latent
                    vectors of the test split, without any selection
    real            (M, C, H, W) uint8: the first test images

and holds no pickled objects.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import nn

from hwnas.data import Dataset, Split
from hwnas.inference.predictor import pixels_of
from hwnas.training.evaluate import predictions
from hwnas.training.predictions import small_image

IMAGES = 64
"""Stored images of each kind, at most."""


def generated_images(network: nn.Module, dataset: Dataset, device: torch.device) -> bytes:
    """Generate a few images and return the content of `generated_images.npz`.

    Args:
        network: the trained generator.
        dataset: its test split has the latent vectors and the real images.
        device: device of the network.
    """
    shown = Split(dataset.test.inputs[:IMAGES], dataset.test.targets[:IMAGES])
    found = predictions(network, shown, dataset, device)
    made = np.concatenate([images.float().cpu().numpy() for images, _ in found])
    arrays = {"generated": pixels_of(made), "real": shown.targets}
    small = {name: np.stack([small_image(one) for one in many]) for name, many in arrays.items()}
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **small)
    return file.getvalue()
