"""Adversarial training of generators of images: a discriminator beside the autoencoder.

A generator is trained as the decoder of a variational autoencoder and, at the same time, against a
discriminator that learns to tell its images of standard normal vectors from real ones (Larsen et
al., "Autoencoding beyond Pixels Using a Learned Similarity Metric", ICML 2016, arXiv 1512.09300,
section 2.3, with the decoded images compared by their pixels). The losses of both are those of Lim
& Ye, "Geometric GAN", arXiv 1705.02894. Spectral normalisation bounds the discriminator's Lipschitz
constant, and so the gradient that reaches an image (Miyato et al., ICLR 2018, arXiv 1802.05957).

Shapes: N samples, Z latent values, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTH, LARGEST_WIDTH, SIDE = 32, 256, 8
"""Channels of the first convolution, channels at most, and the side from which a map is small
enough for the linear layer."""
RATE = 0.5
"""The discriminator's learning rate as a share of the generator's."""
BETAS = (0.5, 0.999)
"""Of Adam, as for DCGAN (Radford et al., ICLR 2016, arXiv 1511.06434, section 4)."""
SLOPE = 0.2
"""Of the leaky ReLU for values below 0, as for DCGAN."""


class Discriminator(nn.Module):
    """A small convolutional network, the same for every generator, which is not deployed.

    Args:
        channels: of the images.
        height: of the images, at least 2.
        width: of the images, at least 2.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in, c_out = channels, WIDTH
        while not layers or min(height, width) > SIDE:
            layers += [spectral_norm(nn.Conv2d(c_in, c_out, 4, 2, 1)), nn.LeakyReLU(SLOPE)]
            c_in, c_out = c_out, min(2 * c_out, LARGEST_WIDTH)
            height, width = height // 2, width // 2
        linear = spectral_norm(nn.Linear(c_in * height * width, 1))
        self.layers = nn.Sequential(*layers, nn.Flatten(), linear)

    def forward(self, images: Tensor) -> Tensor:
        """Return how real images (N, C, H, W), 0 to 1, look: (N, 1), above 0 for real ones."""
        values: Tensor = self.layers(images)
        return values


class Adversary:
    """A discriminator with its optimiser, both advanced once in each step of a generator.

    Args:
        image_shape: (C, H, W).
        device: where the generator is trained.
        seed: of the first weights.
    """

    def __init__(self, image_shape: tuple[int, ...], device: torch.device, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.discriminator = Discriminator(*image_shape).to(device)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), betas=BETAS)
        self._made: Tensor | None = None

    def loss(self, generator: nn.Module, noise: Tensor) -> Tensor:
        """The generator's loss: how little its images of noise (N, Z, 1, 1) look real, a scalar.

        The images are kept for the discriminator's next step.
        """
        images = generator(noise)
        self._made = images.detach().float()
        self.discriminator.requires_grad_(False)
        loss: Tensor = -self.discriminator(images).mean()
        self.discriminator.requires_grad_(True)
        return loss

    def learn(self, real: Tensor, learning_rate: float) -> float:
        """Let the discriminator take a step on real images and on those that `loss` has kept.

        Args:
            real: images (N, C, H, W), 0 to 1.
            learning_rate: the generator's at this step.

        Returns:
            The discriminator's loss, 2 where it cannot tell images apart.
        """
        assert self._made is not None, "the generator's loss comes first"
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * learning_rate
        real_values, made_values = self.discriminator(real), self.discriminator(self._made)
        loss = F.relu(1 - real_values).mean() + F.relu(1 + made_values).mean()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self._made = None
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is needed to resume the training."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
