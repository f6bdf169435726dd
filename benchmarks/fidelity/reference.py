"""The networks once more, in PyTorch: the oracle that ours are compared with.

Modules are named as ResNet code for CIFAR commonly names them, so a state_dict here is one that users have.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, bias=False)


class BasicBlock(nn.Module):
    """He et al. (2015): conv, BN, activation, dropout, conv, BN, plus the shortcut, activation."""

    def __init__(self, inputs: int, width: int, stride: int, activation: nn.Module, dropout: float):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.activation, self.dropout = activation, nn.Dropout(dropout)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != width:
            self.shortcut = nn.Sequential(conv(inputs, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.dropout(self.activation(self.bn1(self.conv1(x))))
        return self.activation(self.bn2(self.conv2(inner)) + self.shortcut(x))


class PreActBlock(nn.Module):
    """He et al. (2016): BN, activation, conv, twice; the projected shortcut starts after the first activation."""

    def __init__(self, inputs: int, width: int, stride: int, activation: nn.Module, dropout: float):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        self.activation, self.dropout = activation, nn.Dropout(dropout)
        self.shortcut = nn.Sequential(conv(inputs, width, 1, stride)) if stride > 1 or inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(self.bn1(x))
        inner = self.dropout(self.activation(self.bn2(self.conv1(active))))
        return self.conv2(inner) + (x if self.shortcut is None else self.shortcut(active))


class PoolBlock(nn.Module):
    """The residual block of ResNet-9 (Page, 2018): where the shape changes, conv, pool, BN, activation come first."""

    def __init__(self, inputs: int, width: int, stride: int, activation: nn.Module, dropout: float):
        super().__init__()
        self.entry = nn.Sequential()
        if stride > 1 or inputs != width:
            self.entry = nn.Sequential(conv(inputs, width, 3), nn.BatchNorm2d(width))
        self.stride = stride
        self.conv1, self.bn1 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.activation, self.dropout = activation, nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.entry):
            enter, norm = self.entry
            x = self.activation(norm(nn.functional.max_pool2d(enter(x), self.stride)))
        inner = self.dropout(self.activation(self.bn1(self.conv1(x))))
        return self.activation(x + self.bn2(self.conv2(inner)))


BLOCKS = {"basic": BasicBlock, "preact": PreActBlock, "pool": PoolBlock}


class ResNet(nn.Module):
    """Takes the architecture fields of `resnet_flax.models.architecture`; (batch, 3, H, W) -> (batch, classes)."""

    def __init__(
        self, stem, blocks, widths, block, activation, stem_dropout, block_dropout, final_norm, num_classes: int = 10
    ):
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        whitened = stem == "whitening"
        if whitened:
            self.whitening = nn.Conv2d(3, 24, 2, bias=False).requires_grad_(False)
            nn.init.zeros_(self.whitening.weight)
        else:
            self.conv1 = conv(3, widths[0], 3)
            if block != "preact":
                self.bn1 = nn.BatchNorm2d(widths[0])
        self.dropout = nn.Dropout(stem_dropout)
        kind = BLOCKS[block]
        self.stages = len(blocks)
        for stage, (inputs, width) in enumerate(pairwise([24 if whitened else widths[0], *widths]), start=1):
            first = kind(inputs, width, 2 if stage > 1 or whitened else 1, self.activation, block_dropout)
            more = [kind(width, width, 1, self.activation, block_dropout) for _ in range(blocks[stage - 1] - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *more))
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
    """Fill `net` with numbers that are the same everywhere, BatchNorm's too, so that nothing mixed up goes unnoticed.

    Weights have the spread of PyTorch's own; scales and variances lie in 0.5..1.5, shifts and means around 0.
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
    """The state_dict of `net` as copied NumPy arrays, without num_batches_tracked."""
    return {
        name: tensor.numpy().copy()
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def gradients(net: nn.Module) -> dict[str, np.ndarray]:
    """The gradients of all parameters after a backward pass, by name."""
    return {
        name: parameter.grad.numpy().copy() for name, parameter in net.named_parameters() if parameter.grad is not None
    }


def channels_first(images: np.ndarray) -> Tensor:
    """(batch, H, W, C) -> (batch, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
