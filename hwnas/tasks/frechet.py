"""The Fréchet distance between two sets of images, by features of a small fixed network.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
NeurIPS 2017 (arXiv 1706.08500), take for the distance of two sets of images that of two normal
distributions with the means and covariances of the images' features, which Dowson & Landau, Journal
of Multivariate Analysis 12, 1982 computed:

    `d^2 = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))`.

Their features are those of a network for photos of ImageNet. Here they are those of three
convolutions with random weights, which Naeem et al., "Reliable Fidelity and Diversity Metrics for
Generative Models", ICML 2020 (arXiv 2002.09797), propose for images of another kind. The features
are decorrelated by the real images: their first component, brightness, has most of the variance
and would decide most of the distance.

Shapes: N images, C channels, H rows, W columns, F features.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.data.formats import seeded_rng

WIDTHS, PLACES = (16, 32, 32), 2
"""Channels of the convolutions; each feature is the mean of one of the last over a quarter."""
RIDGE = 0.01
"""What is added to the variance of every decorrelated feature, as a share of the largest."""
BATCH = 500
"""Images whose features are computed at once."""


class Features:
    """The decorrelated features of images, (N, C, H, W) to (N, 128).

    Three 3x3 convolutions of 16, 32 and 32 channels, of which the last two have stride 2, each
    followed by ReLU, and means over the four quarters of the map. The weights are normal numbers
    with the variance 2 / (9 c_in) (He et al., ICCV 2015, arXiv 1502.01852), always the same. With
    mean m, eigenvectors V and eigenvalues e of the features' covariance over the real images,
    features f become (f - m) V / sqrt(e + 0.01 max(e)).

    Args:
        real: images (N, C, H, W), 0 to 1, that decide the decorrelation.
    """

    def __init__(self, real: Tensor) -> None:
        rng, c_in = seeded_rng(0, "features of images"), real.shape[1]
        self._weights = []
        for c_out in WIDTHS:
            drawn = rng.standard_normal((c_out, c_in, 3, 3)) * np.sqrt(2 / (9 * c_in))
            self._weights.append(torch.from_numpy(drawn).float())
            c_in = c_out
        plain = self._plain(real)
        self._mean = plain.mean(dim=0)
        variances, vectors = torch.linalg.eigh(_covariance(plain))
        largest = variances.max().clamp_min(torch.finfo(torch.float64).tiny)
        self._map = vectors / torch.sqrt(variances.clamp_min(0) + RIDGE * largest)

    def __call__(self, images: Tensor) -> Tensor:
        """The features (N, F) float64 of images (N, C, H, W), 0 to 1."""
        found: Tensor = (self._plain(images) - self._mean) @ self._map
        return found

    @torch.no_grad()
    def _plain(self, images: Tensor) -> Tensor:
        """The features as the network computes them."""
        found = []
        for part in torch.split(images.float(), BATCH):
            for layer, weight in enumerate(self._weights):
                part = F.relu(F.conv2d(part, weight, stride=2 if layer else 1, padding=1))
            found.append(F.adaptive_avg_pool2d(part, PLACES).flatten(1).double())
        return torch.cat(found)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The squared Fréchet distance of two sets of features.

    Args:
        first: features (N, F) float64.
        second: features (M, F) float64.
    """
    means = first.mean(dim=0) - second.mean(dim=0)
    covariances = _covariance(first), _covariance(second)
    root = _square_root(covariances[0])
    # The eigenvalues of S_1 S_2 are those of this matrix, which is symmetric.
    product = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp_min(0)
    spread = covariances[0].trace() + covariances[1].trace() - 2 * product.sqrt().sum()
    return max(0.0, float(means.square().sum() + spread))


def total_variance(features: Tensor) -> float:
    """The sum of the variances of features (N, F).

    It is the squared Fréchet distance to a single image whose features are the mean, the least
    distance that a generator of one image can have.
    """
    return float(features.var(dim=0, correction=0).sum())


def _covariance(features: Tensor) -> Tensor:
    """The covariance (F, F) of features (N, F), which is 0 for a single sample."""
    centred = features - features.mean(dim=0)
    covariance: Tensor = centred.T @ centred / len(features)
    return covariance


def _square_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance (F, F)."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    return root
