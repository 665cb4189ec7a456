"""Three classifiers that transformers does not have, built as in their papers.

Each returns the cross entropy of a batch of images, as the classifiers of transformers do.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CLASSES = 1000


class Classifier(nn.Module):
    """Layers that turn images [batch, 3, 224, 224] into class scores [batch, classes]."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layers(pixel_values)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def alexnet(classes: int = CLASSES) -> Classifier:
    """AlexNet in one column (Krizhevsky, arXiv 1404.5997, footnote 1): 61.1 million parameters."""
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
    )
    return Classifier(nn.Sequential(features, nn.Flatten(), _three_linear(256 * 6 * 6, classes)))


def vgg11(classes: int = CLASSES) -> Classifier:
    """VGG-11 without normalization (Simonyan and Zisserman, arXiv 1409.1556, table 1, column A).

    132.9 million parameters.
    """
    features: list[nn.Module] = []
    channels = 3
    for stage in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
        for width in stage:
            features += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        features.append(nn.MaxPool2d(2, stride=2))
    head = _three_linear(512 * 7 * 7, classes)
    return Classifier(nn.Sequential(nn.Sequential(*features), nn.Flatten(), head))


def _three_linear(width: int, classes: int) -> nn.Sequential:
    """Returns the three linear layers at the end of AlexNet and of VGG."""
    return nn.Sequential(
        nn.Dropout(0.5),
        nn.Linear(width, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, classes),
    )


# (width, kernel, stride, expansion, layers) of each stage: MnasNet-B1, which has no squeeze and
# excitation (Tan et al., arXiv 1807.11626, section 5 and figure 7)
_MNASNET = (
    (24, 3, 2, 3, 3),
    (40, 5, 2, 3, 3),
    (80, 5, 2, 6, 3),
    (96, 3, 1, 6, 2),
    (192, 5, 2, 6, 4),
    (320, 3, 1, 6, 1),
)


def mnasnet(classes: int = CLASSES) -> Classifier:
    """MnasNet 1.0: 4.4 million parameters."""
    layers: list[nn.Module] = [
        *_convolution(3, 32, 3, stride=2),
        *_convolution(32, 32, 3, groups=32),
        *_convolution(32, 16, 1, activate=False),
    ]
    channels = 16
    for width, kernel, stride, expansion, repeats in _MNASNET:
        for i in range(repeats):
            layers.append(_Inverted(channels, width, kernel, stride if i == 0 else 1, expansion))
            channels = width
    layers += _convolution(channels, 1280, 1)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, classes)]
    return Classifier(nn.Sequential(*layers))


class _Inverted(nn.Module):
    """An inverted residual: widen, filter each channel by itself, and narrow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.residual = inputs == outputs and stride == 1
        self.layers = nn.Sequential(
            *_convolution(inputs, middle, 1),
            *_convolution(middle, middle, kernel, stride=stride, groups=middle),
            *_convolution(middle, outputs, 1, activate=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def _convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activate: bool = True,
) -> Iterator[nn.Module]:
    padding = kernel // 2
    yield nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    yield nn.BatchNorm2d(outputs)
    if activate:
        yield nn.ReLU(inplace=True)
