"""Our networks against timm's, our augmentation and mixing against torchvision's, each called as a user would.

The other comparisons are with definitions in PyTorch and Pillow that were written for this project and could share a
misunderstanding with the code that they check. A network of timm gets a 3x3 convolution instead of its stem for large
images, and where ours has three stages, it has no fourth.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import PIL.Image

from benchmarks.fidelity import Row, augmentation, losses, networks
from benchmarks.fidelity.losses import CLASSES, Draw
from resnet_flax.data.augment import autoaugment
from resnet_flax.models import architecture
from resnet_flax.models.blocks import SE_REDUCTION
from resnet_flax.models.torch_weights import Tensors, common_name

if TYPE_CHECKING:
    import torch

# Networks that timm can build, too.
BASIC = ("resnet18", "resnet_443", "resnet_353", "resnet_large", "resnet20_w64")
BOTTLENECK = ("resnet50", "resnext29_32x4d")
WIDE = ("wrn_16_4", "wrn_28_2", "wrn_40_2")
POST_ACTIVATION: dict[str, dict] = {
    **{name: architecture(name) for name in (*BASIC, *BOTTLENECK)},
    "resnet_2322": architecture("resnet_2322") | dict(stem_dropout=0.0, block_dropout=0.0),
    "resnet18, SE": architecture("resnet18") | dict(se=True),
    "resnet50, ResNet-D": architecture("resnet50") | dict(shortcut="avg_pool"),
    "resnext29_32x4d, ResNet-D, SE": architecture("resnext29_32x4d") | dict(shortcut="avg_pool", se=True),
}
PRE_ACTIVATION: dict[str, dict] = {
    "preact, final BatchNorm": architecture("preact") | dict(final_norm=True),
    "preact_resnet18, final BatchNorm": architecture("preact_resnet18") | dict(final_norm=True),
    **{name: architecture(name) for name in WIDE},
}
# How ResNetV2 names what is named alike in other ResNet code.
OTHER_NAMES = {
    r"^stem\.conv\.": "conv1.",
    r"^stages\.(\d+)\.blocks\.": lambda match: f"layer{int(match[1]) + 1}.",
    r"\bnorm(\d)\.": r"bn\1.",
    r"^norm\.": "bn.",
    r"\bshortcut\.conv\.": "shortcut.0.",
    r"^head\.": "",
}


def our_names(arrays: Tensors) -> Tensors:
    """Return the weights or results of a network of timm under our names; its last layer may be a 1x1 convolution."""
    renamed = {}
    for path, array in arrays.items():
        measure, slash, name = path.rpartition("/")  # as in gradient/NAME
        name = common_name(name)
        for pattern, replacement in OTHER_NAMES.items():
            name = re.sub(pattern, replacement, name)
        last = name == "linear.weight" and array.ndim == 4
        renamed[f"{measure}{slash}{name}"] = array.squeeze((2, 3)) if last else array
    return renamed


def post_activation(fields: dict) -> "torch.nn.Module":
    """Return timm's ResNet, of basic or bottleneck blocks."""
    from timm.layers import SEModule
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet
    from torch import nn

    bottleneck, groups = fields["block"] == "bottleneck", fields["groups"]
    widths = [width // 4 if bottleneck else width for width in fields["widths"]]
    attention = partial(SEModule, rd_ratio=1 / SE_REDUCTION, rd_divisor=1) if fields["se"] else None
    net = ResNet(
        Bottleneck if bottleneck else BasicBlock,
        fields["blocks"],
        num_classes=CLASSES,
        channels=widths,
        cardinality=groups,
        base_width=round(64 * 4 * fields["bottleneck_ratio"] / groups),
        avg_down=fields["shortcut"] == "avg_pool",
        block_args=dict(attn_layer=attention),
    )
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    if len(widths) == 3:
        net.layer4 = nn.Identity()
    return net


def pre_activation(fields: dict) -> "torch.nn.Module":
    """Return timm's ResNetV2, of basic blocks with BatchNorm."""
    from timm.layers import BatchNormAct2d, create_conv2d
    from timm.models.resnetv2 import ResNetV2
    from torch import nn

    stem = fields["stem_width"] or fields["widths"][0]
    net = ResNetV2(
        fields["blocks"],
        fields["widths"],
        num_classes=CLASSES,
        stem_chs=stem,
        basic=True,
        bottle_ratio=1.0,
        norm_layer=BatchNormAct2d,
        conv_layer=create_conv2d,
    )
    net.stem = nn.Sequential()
    net.stem.add_module("conv", nn.Conv2d(3, stem, 3, padding=1, bias=False))
    return net


def compare() -> Iterator[Row]:
    for build, some in ((post_activation, POST_ACTIVATION), (pre_activation, PRE_ACTIVATION)):
        for label, fields in some.items():
            yield from networks.compare_network(f"timm, {label}", fields, build(fields), our_names)
    yield from (replace(row, what=f"torchvision, {row.what}") for row in compare_augmentation())


def compare_augmentation() -> Iterator[Row]:
    """Compare with torchvision.transforms: single operations, those of policies, and MixUp and CutMix."""
    images = np.resize(augmentation.pictures(256), (2048, augmentation.SIZE, augmentation.SIZE, 3))
    for case in augmentation.cases(len(images)):
        yield augmentation.compare_case(case._replace(oracle=partial(transformed, function(case.what))), images)
    for policy, (names, bins, _) in augmentation.SPACES.items():
        for name in names:
            magnitudes = space(policy)[name].expand(bins).double().numpy()
            yield augmentation.compare_operation(policy, name, images[:32], magnitudes, operation)
    ours = {tuple(map(tuple, map(str.split, pair.split(", ")))) for pair in autoaugment.CIFAR10}
    yield Row("autoaugment, sub-policies that only one has", float(len(ours ^ subpolicies())), 0.0)
    yield from augmentation.compare_tensors(images[:256], erased, standardized)
    yield from losses.compare_mixing(("mixup", "cutmix"), mixed)


def transformed(function: Callable, image: np.ndarray, *parameters: float) -> np.ndarray:
    """Apply a function of torchvision to an image (H, W, 3) uint8 by way of Pillow."""
    return np.asarray(function(PIL.Image.fromarray(image), *parameters))


def function(what: str) -> Callable:
    """Return torchvision's function (image, *parameters) for a case of `augmentation.cases`."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    def hue(image: PIL.Image.Image, steps: int) -> PIL.Image.Image:
        return F.adjust_hue(image, (steps + math.copysign(0.5, steps)) / 255)  # adjust_hue truncates 255 times this

    mode = InterpolationMode(what.rpartition(", ")[2]) if what.startswith(("rotate", "affine")) else None
    functions: dict[str, Callable] = {
        "crop 4": lambda x, top, left: F.crop(F.pad(x, 4), top, left, *x.size),
        "flip": lambda x, chosen: F.hflip(x) if chosen else x,
        "translate": lambda x, down, right: F.affine(x, 0.0, [right, down], 1.0, [0.0, 0.0]),
        "rotate": lambda x, degrees: F.rotate(x, degrees, mode),
        "affine": lambda x, angle, right, down, scale, shear: F.affine(
            x, angle, [int(right), int(down)], scale, [shear, 0.0], mode
        ),
        "color_jitter, brightness": F.adjust_brightness,
        "color_jitter, contrast": F.adjust_contrast,
        "color_jitter, saturation": F.adjust_saturation,
        "color_jitter, hue": hue,
        "sharpness": F.adjust_sharpness,
        "solarize": F.solarize,
        "posterize": F.posterize,
    }
    return next(function for name, function in functions.items() if what.startswith(name))


def space(policy: str) -> dict:
    """Return the magnitudes that torchvision has for each operation of a policy, or one number, as a tensor."""
    from torchvision import transforms

    size = (augmentation.SIZE, augmentation.SIZE)
    spaces = {
        "autoaugment": lambda: transforms.AutoAugment()._augmentation_space(10, size),
        "rand_augment": lambda: transforms.RandAugment()._augmentation_space(31, size),
        "trivial_augment": lambda: transforms.TrivialAugmentWide()._augmentation_space(31),
    }
    return {name: magnitudes for name, (magnitudes, _) in spaces[policy]().items()}


def subpolicies() -> set[tuple]:
    """Return torchvision's sub-policies for CIFAR-10: pairs of (operation, probability, magnitude), as text."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    policies = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    return {tuple((name, f"{share:g}", str(place or 0)) for name, share, place in pair) for pair in policies}


def operation(image: np.ndarray, name: str, magnitude: float) -> np.ndarray:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    return transformed(lambda x: _apply_op(x, name, magnitude, InterpolationMode.NEAREST, None), image)


def erased(image: np.ndarray, top: int, left: int, height: int, width: int, value: float) -> np.ndarray:
    import torch
    from torchvision.transforms import functional as F

    rows, columns = (range(max(first, 0), max(first + n, 0)) for first, n in ((top, height), (left, width)))
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
    return F.erase(tensor, rows.start, columns.start, len(rows), len(columns), value).permute(1, 2, 0).numpy()


def standardized(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    from torchvision.transforms import functional as F

    return F.normalize(F.to_tensor(PIL.Image.fromarray(image)), mean, std).permute(1, 2, 0).numpy()


def mixed(images: np.ndarray, labels: np.ndarray, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, targets) of torchvision's MixUp or CutMix, which gets the draw in place of random numbers."""
    import torch
    from torchvision.transforms import v2

    method = (v2.MixUp if draw.centre is None else v2.CutMix)(num_classes=CLASSES)
    centre = [torch.tensor([place]) for place in draw.centre or ()]
    share = patch.object(method._dist, "sample", return_value=torch.tensor(draw.share))
    with share, patch.object(torch, "randint", side_effect=centre):
        image, targets = method(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels).long())
    return image.permute(0, 2, 3, 1).numpy(), targets.numpy()
