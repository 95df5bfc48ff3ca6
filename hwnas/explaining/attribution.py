"""Where a classifier looks: integrated gradients and occlusion, by Captum.

Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks", ICML 2017 (arXiv 1703.01365);
Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014 (arXiv
1311.2901).

Shapes: M samples, C channels, H rows, W columns, L tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hwnas.data.text import UNKNOWN_TOKEN
from hwnas.explaining.extra import require_extra

STEPS = 32
"""Steps of the integral between the baseline and a sample."""
WINDOWS = 7
"""Occluding windows beside each other along the longer side of an image."""
CHUNK = 64
"""Inputs in one call of the network."""


@dataclass(frozen=True)
class Attributions:
    """How much each place of a sample speaks for the predicted class.

    Attributes:
        gradients: integrated gradients, summed over channels: images (M, H, W), tables (M, C),
            texts (M, L). They sum to the logit's difference to the baseline's.
        occlusion: how much the logit falls if the place is covered, of the same shape.
        residual: largest difference of a sum of integrated gradients from the difference of the
            logits, as a share of it; an error of the integral.
    """

    gradients: np.ndarray
    occlusion: np.ndarray
    residual: float


def attributions(network: nn.Module, inputs: Tensor, classes: Tensor) -> Attributions:
    """Attribute the logits of classes to the places of samples.

    The baseline is the mean of the training samples, 0 in normalised inputs, and the unknown word
    in texts.

    Args:
        network: maps inputs to logits (M, K), in eval mode.
        inputs: normalised (M, C, H, W), or tokens (M, L).
        classes: (M,), the class of each sample whose logit is explained.

    Raises:
        RuntimeMissingError: when Captum is not installed.
    """
    require_extra("captum", "Captum")
    from captum.attr import IntegratedGradients, LayerIntegratedGradients, Occlusion

    if inputs.ndim == 2:
        baseline = torch.where(inputs > 0, UNKNOWN_TOKEN, inputs)
        embedding = next(m for m in network.modules() if isinstance(m, nn.Embedding))
        method = LayerIntegratedGradients(network, embedding)
        window: tuple[int, ...] = (1,)
        stride: tuple[int, ...] = (1,)
    else:
        baseline = torch.zeros_like(inputs)
        method = IntegratedGradients(network)
        channels, *sides = inputs.shape[1:]
        size = max(1, -(-max(sides) // WINDOWS))
        is_table = max(sides) == 1
        window = (1 if is_table else channels, *(min(size, side) for side in sides))
        stride = (window[0], *(max(1, side // 2) for side in window[1:]))
    gradients, deltas = method.attribute(
        inputs,
        baselines=baseline,
        target=classes,
        n_steps=STEPS,
        internal_batch_size=CHUNK,
        return_convergence_delta=True,
    )
    occlusion = Occlusion(network).attribute(
        inputs, window, strides=stride, baselines=baseline, target=classes
    )
    with torch.no_grad():
        gain = (network(inputs) - network(baseline)).gather(1, classes[:, None])[:, 0]
    residual = (deltas.abs() / gain.abs().clamp_min(1e-3)).max()
    # A window covers all channels, which share its value.
    of_places = occlusion[:, :1] if window[0] > 1 else occlusion
    return Attributions(_places(gradients), _places(of_places), float(residual))


def _places(values: Tensor) -> np.ndarray:
    """Sum over channels: (M, H, W), of tables (M, C), of embedded tokens (M, L)."""
    values = values.detach().float()
    if values.ndim == 4 and values.shape[2:] == (1, 1):
        return values[:, :, 0, 0].numpy()
    if values.ndim == 4:
        return values.sum(dim=1).numpy()
    return (values.sum(dim=2) if values.ndim == 3 else values).numpy()
