"""The networks once more, in PyTorch: the oracle with which ours are compared.

Modules are named as in common ResNet code for CIFAR, so a state_dict here is like those that users have.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, groups=groups, bias=False)


class SqueezeExcite(nn.Module):
    """Hu et al. (2018), written as in torchvision: channels / 16 in the middle."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(channels // 16, 1), 1)
        self.fc2 = nn.Conv2d(max(channels // 16, 1), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(means))))


class DropPath(nn.Module):
    """Stochastic depth for whole examples; networks are compared with a fixed choice of them."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        return x * torch.empty(len(x), 1, 1, 1).bernoulli_(1 - self.p) / (1 - self.p)


class Pad(nn.Module):
    """Shortcut A of He et al. (2015): every stride-th pixel, and channels of zeros on both sides."""

    def __init__(self, missing: int, stride: int):
        super().__init__()
        self.missing, self.stride = missing, stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.missing // 2
        pixels = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(pixels, (0, 0, 0, 0, before, self.missing - before))


class Block(nn.Module):
    """The parts that variants share."""

    def __init__(
        self,
        inputs,
        width,
        stride,
        activation,
        *,
        shortcut="conv",
        bottleneck_ratio=0.25,
        groups=1,
        dropout=0.0,
        drop_path=0.0,
        se=False,
    ):
        super().__init__()
        self.activation, self.dropout, self.drop_path = activation, nn.Dropout(dropout), DropPath(drop_path)
        self.se = SqueezeExcite(width) if se else nn.Identity()
        self.build(inputs, width, stride, shortcut, round(width * bottleneck_ratio), groups)

    def projection(self, inputs: int, width: int, stride: int, kind: str, norm: bool = True) -> nn.Module | None:
        if stride == 1 and inputs == width:
            return None
        if kind == "pad":
            return Pad(width - inputs, stride)
        pools = kind == "avg_pool"
        pool = [nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()]
        norms = [nn.BatchNorm2d(width)] if norm else []
        return nn.Sequential(*pool * pools, conv(inputs, width, 1, 1 if pools else stride), *norms)

    def finish(self, y: Tensor) -> Tensor:
        return self.drop_path(self.se(y))

    def skip(self, x: Tensor) -> Tensor:
        return x if self.shortcut is None else self.shortcut(x)


class BasicBlock(Block):
    """He et al. (2015): conv, BN, activation, dropout, conv, BN, plus the shortcut, activation."""

    def build(self, inputs: int, width: int, stride: int, shortcut: str, inner: int, groups: int) -> None:
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = self.projection(inputs, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.dropout(self.activation(self.bn1(self.conv1(x))))
        return self.activation(self.finish(self.bn2(self.conv2(inner))) + self.skip(x))


class BottleneckBlock(Block):
    """He et al. (2015) and Xie et al. (2017): 1x1, 3x3 with the stride and in groups, 1x1, each with BN."""

    def build(self, inputs: int, width: int, stride: int, shortcut: str, inner: int, groups: int) -> None:
        self.conv1, self.bn1 = conv(inputs, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv(inner, inner, 3, stride, groups), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = conv(inner, width, 1), nn.BatchNorm2d(width)
        self.shortcut = self.projection(inputs, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.bn1(self.conv1(x)))
        y = self.dropout(self.activation(self.bn2(self.conv2(y))))
        return self.activation(self.finish(self.bn3(self.conv3(y))) + self.skip(x))


class PreActBlock(Block):
    """He et al. (2016): BN, activation, conv, twice; the projected shortcut starts after the first activation."""

    def build(self, inputs: int, width: int, stride: int, shortcut: str, inner: int, groups: int) -> None:
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        self.shortcut = self.projection(inputs, width, stride, shortcut, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(self.bn1(x))
        inner = self.dropout(self.activation(self.bn2(self.conv1(active))))
        return self.finish(self.conv2(inner)) + (x if self.shortcut is None else self.shortcut(active))


class PoolBlock(Block):
    """The residual block of ResNet-9 (Page, 2018): where the shape changes, conv, pool, BN, activation come first."""

    def build(self, inputs: int, width: int, stride: int, shortcut: str, inner: int, groups: int) -> None:
        self.entry = nn.Sequential()
        if stride > 1 or inputs != width:
            self.entry = nn.Sequential(conv(inputs, width, 3), nn.BatchNorm2d(width))
        self.stride = stride
        self.conv1, self.bn1 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.entry):
            enter, norm = self.entry
            x = self.activation(norm(nn.functional.max_pool2d(enter(x), self.stride)))
        inner = self.dropout(self.activation(self.bn1(self.conv1(x))))
        return self.activation(x + self.finish(self.bn2(self.conv2(inner))))


BLOCKS = {"basic": BasicBlock, "bottleneck": BottleneckBlock, "preact": PreActBlock, "pool": PoolBlock}


class ResNet(nn.Module):
    """Takes the architecture fields of `resnet_flax.models.architecture`; (batch, 3, H, W) -> (batch, classes)."""

    def __init__(
        self,
        stem,
        stem_width,
        blocks,
        widths,
        block,
        activation,
        stem_dropout,
        block_dropout,
        drop_path,
        final_norm,
        num_classes: int = 10,
        **parts,
    ):
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        whitened = stem == "whitening"
        if whitened:
            self.whitening = nn.Conv2d(3, 24, 2)
            self.whitening.weight.requires_grad_(False)
            for parameter in self.whitening.parameters():
                nn.init.zeros_(parameter)
        else:
            stem_width = stem_width or widths[0]
            self.conv1 = conv(3, stem_width, 3)
            if block != "preact":
                self.bn1 = nn.BatchNorm2d(stem_width)
        self.dropout = nn.Dropout(stem_dropout)
        self.stages = len(blocks)
        rates = iter(torch.linspace(0, drop_path, sum(blocks) + 1).tolist()[1:])
        for stage, (inputs, width) in enumerate(pairwise([24 if whitened else stem_width, *widths]), start=1):
            layer = nn.Sequential()
            for index in range(blocks[stage - 1]):
                stride = 2 if index == 0 and (stage > 1 or whitened) else 1
                rate = dict(dropout=block_dropout, drop_path=next(rates))
                layer.append(BLOCKS[block](width if index else inputs, width, stride, self.activation, **rate, **parts))
            setattr(self, f"layer{stage}", layer)
        if block == "preact" and final_norm:
            self.bn = nn.BatchNorm2d(widths[-1])
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.whitening(x) if hasattr(self, "whitening") else self.conv1(x)
        if hasattr(self, "bn1"):
            x = self.bn1(x)
        if hasattr(self, "whitening") or hasattr(self, "bn1"):
            x = self.activation(x)
        x = self.dropout(x)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        if hasattr(self, "bn"):
            x = self.activation(self.bn(x))
        return self.linear(x.mean((2, 3)))


def randomise(net: nn.Module, seed: int) -> None:
    """Fill `net`, including BatchNorm, with reproducible random numbers, so that no mix-up goes unnoticed.

    Weights have the spread of PyTorch's own; scales and variances are in 0.5..1.5, shifts and means around 0.
    """
    draw = np.random.default_rng(seed)
    for name, tensor in net.state_dict().items():
        shape = tuple(tensor.shape)
        if tensor.ndim > 1:
            values = draw.uniform(-1, 1, shape) / np.sqrt(np.prod(shape[1:]))
        elif name.endswith(("weight", "running_var")):
            values = draw.uniform(0.5, 1.5, shape)
        else:
            values = draw.normal(0, 0.1, shape)
        if not name.endswith("num_batches_tracked"):
            tensor.copy_(torch.from_numpy(values))


def tensors(net: nn.Module) -> dict[str, np.ndarray]:
    """Return the state_dict of `net` as copied NumPy arrays, without num_batches_tracked."""
    return {
        name: tensor.numpy().copy()
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def gradients(net: nn.Module) -> dict[str, np.ndarray]:
    """Return the gradients of all parameters after a backward pass, by name."""
    return {
        name: parameter.grad.numpy().copy() for name, parameter in net.named_parameters() if parameter.grad is not None
    }


def channels_first(images: np.ndarray) -> Tensor:
    """Convert (batch, H, W, C) to (batch, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
