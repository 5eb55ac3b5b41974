"""Networks that papers on gradient inversion use, for comparisons with them."""

from __future__ import annotations

import torch
from torch import nn


def lenet_sigmoid(
    input_shape: tuple[int, ...], num_classes: int, width: int = 12, spread: float = 0.5
) -> nn.Sequential:
    """The LeNet of Zhu et al. (Deep Leakage from Gradients, NeurIPS 2019): sigmoids, no pooling.

    Three 5 x 5 convolutions with strides 2, 2 and 1, then one linear layer; all weights and
    biases uniform in [-spread, spread], which makes gradients easy to invert.
    """
    channels, height, image_width = input_shape
    rows, columns = (height + 3) // 4, (image_width + 3) // 4
    net = nn.Sequential(
        *(nn.Conv2d(channels, width, 5, 2, 2), nn.Sigmoid()),
        *(nn.Conv2d(width, width, 5, 2, 2), nn.Sigmoid()),
        *(nn.Conv2d(width, width, 5, 1, 2), nn.Sigmoid()),
        nn.Flatten(),
        nn.Linear(width * rows * columns, num_classes),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(-spread, spread)
    return net


def convnet_small(
    input_shape: tuple[int, ...], num_classes: int, width: int = 32
) -> nn.Sequential:
    """A ReLU network of four 3 x 3 convolutions without normalisation, averaged over space.

    The shape of the small ConvNet that ``breaching`` compares attacks on (Geiping et al.,
    Inverting Gradients, NeurIPS 2020); inputs of 24 x 24 or larger.
    """
    channels = input_shape[0]
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(2 * width, 4 * width, 3, 2, 1), nn.ReLU()),
        nn.MaxPool2d(3),
        *(nn.Conv2d(4 * width, 4 * width, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(4 * width, num_classes),
    )
