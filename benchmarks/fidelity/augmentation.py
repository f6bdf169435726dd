"""Augmentation against torchvision's definitions: every operation, given the same drawn parameters.

torchvision's transforms of PIL images delegate to Pillow, so the oracle here is Pillow itself, called as described by
the documentation and formulas of torchvision.transforms.functional; erasing and normalisation, which torchvision
defines on tensors, and the magnitudes of the automatic policies are PyTorch's. Every uint8 value must be equal.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.fidelity import Row, value_by_value
from resnet_flax.data.augment import autoaugment, pixels
from resnet_flax.data.augment.policy import NORMALIZATIONS

SIZE = 32
RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}


# The oracle: functions of one image (H, W, 3) uint8 and its parameters.


def _pillow(function: Callable[[Image.Image], Image.Image], image: np.ndarray) -> np.ndarray:
    return np.asarray(function(Image.fromarray(image)))


def shift(image: np.ndarray, down: int, right: int) -> np.ndarray:
    return affine(image, 0.0, right, down, 1.0, 0.0, "nearest")


def mirror(image: np.ndarray, chosen: bool) -> np.ndarray:
    return _pillow(ImageOps.mirror, image) if chosen else image


def crop(image: np.ndarray, pad: int, top: int, left: int) -> np.ndarray:
    padded = ImageOps.expand(Image.fromarray(image), border=pad, fill=0)
    return np.asarray(padded.crop((left, top, left + image.shape[1], top + image.shape[0])))


def rotate(image: np.ndarray, degrees: float, interpolation: str) -> np.ndarray:
    return _pillow(lambda x: x.rotate(degrees, RESAMPLING[interpolation], fillcolor=0), image)


def affine(
    image: np.ndarray, angle: float, right: float, down: float, scale: float, shear: float, interpolation: str,
    about: tuple[float, float] | None = None, shear_y: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Transform by the inverse of T(centre + shift) R(angle) Shear_y Shear_x Scale T(-centre), as in torchvision."""
    x, y = (image.shape[1] / 2, image.shape[0] / 2) if about is None else about

    def move(by_x: float, by_y: float) -> np.ndarray:
        return np.array([[1, 0, by_x], [0, 1, by_y], [0, 0, 1]], np.float64)

    turn, skew, skew_y = math.radians(angle), math.tan(math.radians(shear)), math.tan(math.radians(shear_y))
    rotation = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    along_x = np.array([[1, -skew, 0], [0, 1, 0], [0, 0, 1]])
    along_y = np.array([[1, 0, 0], [-skew_y, 1, 0], [0, 0, 1]])
    whole = move(right, down) @ move(x, y) @ rotation @ along_y @ along_x @ np.diag([scale, scale, 1]) @ move(-x, -y)
    matrix = tuple(np.linalg.inv(whole)[:2].ravel())
    size = (image.shape[1], image.shape[0])
    return _pillow(lambda p: p.transform(size, Image.Transform.AFFINE, matrix, RESAMPLING[interpolation]), image)


ENHANCERS = {
    pixels.BRIGHTNESS: ImageEnhance.Brightness,
    pixels.CONTRAST: ImageEnhance.Contrast,
    pixels.SATURATION: ImageEnhance.Color,
}


def adjust(image: np.ndarray, factor: float, kind: int) -> np.ndarray:
    return _pillow(lambda x: ENHANCERS[kind](x).enhance(factor), image)


def sharpen(image: np.ndarray, factor: float) -> np.ndarray:
    return _pillow(lambda x: ImageEnhance.Sharpness(x).enhance(factor), image)


def rotate_hue(image: np.ndarray, steps: int) -> np.ndarray:
    def turned(picture: Image.Image) -> Image.Image:
        hue, saturation, value = picture.convert("HSV").split()
        hue = Image.fromarray(((np.asarray(hue, np.int32) + steps) % 256).astype(np.uint8))
        return Image.merge("HSV", (hue, saturation, value)).convert("RGB")

    return _pillow(turned, image)


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    return _pillow(lambda x: ImageOps.solarize(x, threshold), image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    return _pillow(lambda x: ImageOps.posterize(x, bits), image)


def operation(image: np.ndarray, name: str, magnitude: float) -> np.ndarray:
    """Apply an operation of the automatic policies at a signed magnitude, as torchvision does."""
    angle = math.degrees(math.atan(magnitude))
    match name:
        case "ShearX":
            return affine(image, 0, 0, 0, 1, angle, "nearest", about=(0, 0))
        case "ShearY":
            return affine(image, 0, 0, 0, 1, 0, "nearest", about=(0, 0), shear_y=angle)
        case "TranslateX":
            return affine(image, 0, int(magnitude), 0, 1, 0, "nearest")
        case "TranslateY":
            return affine(image, 0, 0, int(magnitude), 1, 0, "nearest")
        case "Rotate":
            return rotate(image, magnitude, "nearest")
        case "Brightness":
            return adjust(image, 1 + magnitude, pixels.BRIGHTNESS)
        case "Contrast":
            return adjust(image, 1 + magnitude, pixels.CONTRAST)
        case "Color":
            return adjust(image, 1 + magnitude, pixels.SATURATION)
        case "Sharpness":
            return sharpen(image, 1 + magnitude)
        case "Posterize":
            return posterize(image, int(magnitude))
        case "Solarize":
            return solarize(image, magnitude)
        case "AutoContrast":
            return _pillow(ImageOps.autocontrast, image)
        case "Equalize":
            return _pillow(ImageOps.equalize, image)
        case "Invert":
            return _pillow(ImageOps.invert, image)
    return image


def erase(
    image: np.ndarray, top: int, left: int, height: int, width: int, value: float
) -> np.ndarray:  # float32 (H, W, 3)
    import torch

    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
    rows, columns = slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))
    tensor[:, rows, columns] = value
    return tensor.permute(1, 2, 0).numpy()


def standardize(image: np.ndarray, mean: tuple, std: tuple) -> np.ndarray:
    import torch

    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1).to(torch.float32).div(255)
    tensor = tensor.sub(torch.tensor(mean).view(3, 1, 1)).div(torch.tensor(std).view(3, 1, 1))
    return tensor.permute(1, 2, 0).numpy()


# The comparison.


def pictures(n: int, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Return uint8 (n, size, size, 3): patches, gradients, noise; some are pale, grey or of few levels, one is flat."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, size)
    gradient = (
        random.uniform(-150, 150, (n, 1, 1, 3)) * ramp[:, None, None]
        + random.uniform(-150, 150, (n, 1, 1, 3)) * ramp[None, :, None]
    )
    patches = random.uniform(0, 255, (n, 8, 8, 3)).repeat(size // 8, 1).repeat(size // 8, 2)
    images = 0.5 * patches + gradient + 64 + random.normal(0, 12, (n, size, size, 3))
    images[1::8] = images[1::8] * 0.2 + 90
    images[2::8] = images[2::8].mean(-1, keepdims=True)
    images[3::8] = np.round(images[3::8] / 85) * 85
    images[min(5, n - 1)] = 77
    return np.clip(images, 0, 255).astype(np.uint8)


class Case(NamedTuple):
    """An operation on uint8 images: our formula (xp, images, parameters), the oracle for one image, the parameters."""

    what: str
    ours: Callable[..., Any]
    oracle: Callable[..., np.ndarray]
    parameters: list[np.ndarray]  # (n,) each

    def expected(self, images: np.ndarray) -> np.ndarray:
        """Return the images of the oracle, which is given Python numbers, so that it computes in float64."""
        drawn = zip(*(parameter.tolist() for parameter in self.parameters), strict=True)
        return np.stack([self.oracle(image, *one) for image, one in zip(images, drawn, strict=True)])


def ours_rotate(xp: Any, images: Any, angle: Any, interpolation: str) -> Any:
    """Rotate counter-clockwise like Pillow, unlike `pixels.affine`."""
    return pixels.affine(xp, images, -angle, 0 * angle, 0 * angle, 0 * angle + 1, 0 * angle, interpolation)


def cases(n: int, reach: int = 16, seed: int = 1) -> Iterator[Case]:
    """Yield all operations with parameters for `n` images; `reach` bounds the shifts, in pixels."""
    random = np.random.default_rng(seed)

    def real(low: float, high: float) -> np.ndarray:
        return random.uniform(low, high, n).astype(np.float32)

    def whole(low: int, high: int) -> np.ndarray:
        return random.integers(low, high + 1, n).astype(np.int32)

    def ours_crop(xp: Any, images: Any, top: Any, left: Any) -> Any:
        return pixels.shift(xp, images, 4 - top, 4 - left)

    def ours_adjust(xp: Any, images: Any, factor: Any, kind: int) -> Any:
        return pixels.adjust(xp, images, np.full(n, kind, np.int32), factor)

    def ours_posterize(xp: Any, images: Any, bits: Any) -> Any:
        return pixels.posterize(xp, images, xp.asarray(xp.right_shift(np.int32(256), bits), xp.float32))

    yield Case("crop 4", ours_crop, lambda x, top, left: crop(x, 4, top, left), [whole(0, 8), whole(0, 8)])
    yield Case("flip", pixels.mirror, mirror, [whole(0, 1) > 0])
    yield Case("translate, whole pixels", pixels.shift, shift, [whole(-reach, reach), whole(-reach, reach)])
    for kind in RESAMPLING:
        for degrees in (10, 15, 180):
            yield Case(
                f"rotate {degrees}, {kind}",
                partial(ours_rotate, interpolation=kind),
                partial(rotate, interpolation=kind),
                [real(-degrees, degrees)],
            )
        yield Case(
            f"affine, {kind}",
            partial(pixels.affine, interpolation=kind),
            partial(affine, interpolation=kind),
            [real(-30, 30), np.round(real(-6, 6)), np.round(real(-6, 6)), real(0.7, 1.4), real(-20, 20)],
        )
    for number, name in enumerate(("brightness", "contrast", "saturation")):
        for strength in (0.1, 0.2, 1.0):
            yield Case(
                f"color_jitter, {name} {strength}",
                partial(ours_adjust, kind=number),
                partial(adjust, kind=number),
                [real(1 - strength, 1 + strength)],
            )
    for hue in (0.1, 0.5):
        steps = (real(-hue, hue) * 255).astype(np.int32)
        yield Case(f"color_jitter, hue {hue}", pixels.rotate_hue, rotate_hue, [steps])
    for factor in (0.0, 0.5, 1.7, 2.0):
        yield Case(f"sharpness {factor:g}", pixels.sharpen, sharpen, [np.full(n, factor, np.float32)])
    yield Case("solarize", pixels.solarize, solarize, [real(0, 256)])
    yield Case("posterize", ours_posterize, posterize, [whole(1, 8)])


# Policy -> its operations, the number of bins of their magnitudes, and whether these are TrivialAugment's.
SPACES = {
    "autoaugment": (sorted({text.split()[0] for pair in autoaugment.CIFAR10 for text in pair.split(", ")}), 10, False),
    "rand_augment": (autoaugment.NAMES, 31, False),
    "trivial_augment": (autoaugment.NAMES, 31, True),
}


def magnitudes(name: str, bins: int, wide: bool) -> np.ndarray:
    """Return the magnitudes of an operation on images of SIZE, as torchvision computes them: float64 (bins,)."""
    import torch

    match name:
        case "ShearX" | "ShearY":
            values = torch.linspace(0.0, 0.99 if wide else 0.3, bins)
        case "TranslateX" | "TranslateY":
            values = torch.linspace(0.0, 32.0 if wide else 150.0 / 331.0 * SIZE, bins)
        case "Rotate":
            values = torch.linspace(0.0, 135.0 if wide else 30.0, bins)
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            values = torch.linspace(0.0, 0.99 if wide else 0.9, bins)
        case "Posterize":
            values = 8 - (torch.arange(bins) / ((bins - 1) / (6 if wide else 4))).round().int()
        case "Solarize":
            values = torch.linspace(255.0, 0.0, bins)
        case _:
            values = torch.zeros(bins)
    return values.double().numpy()


def compare() -> Iterator[Row]:
    """Compare all operations on synthetic images: the drawn ones on 2,048, those of policies on 32 per magnitude."""
    images = np.resize(pictures(256), (2048, SIZE, SIZE, 3))
    for case in cases(len(images)):
        yield compare_case(case, images)
    for policy, (names, bins, wide) in SPACES.items():
        for name in names:
            yield compare_operation(policy, name, images[:32], magnitudes(name, bins, wide), operation)
    yield from compare_tensors(images[:256], erase, standardize)


def compare_case(case: Case, images: np.ndarray) -> Row:
    ours = jax.jit(partial(case.ours, jnp))(images, *case.parameters)
    return value_by_value(case.what, ours, case.expected(images))


def compare_operation(
    policy: str, name: str, images: np.ndarray, magnitudes: np.ndarray, oracle: Callable[..., np.ndarray]
) -> Row:
    """Compare an operation of a policy with `oracle`, at each of its `magnitudes` in both directions."""
    signs = (-1, 1) if name in autoaugment.SIGNED else (1, 1)
    theirs = np.stack([oracle(image, name, float(sign * x)) for x in magnitudes for sign in signs for image in images])
    _, bins, wide = SPACES[policy]
    size = images.shape[1:3]
    rows = [row for x in autoaugment.magnitudes(name, bins, size, wide) for row in autoaugment.signed(name, x, size)]
    apply = jax.jit(lambda images, index: autoaugment.apply(jnp, images, autoaugment.table(rows), index))
    ours = [apply(images, np.full(len(images), row, np.int32)) for row in range(len(rows))]
    return value_by_value(f"{policy}, {name}", np.concatenate(ours), theirs)


def compare_tensors(images: np.ndarray, erase: Callable, standardize: Callable) -> Iterator[Row]:
    """Compare the operations on float32 with the given oracles."""
    random = np.random.default_rng(2)
    floats = random.normal(size=images.shape).astype(np.float32)
    ranges = ((-4, 32), (-4, 32), (0, 20), (0, 20))  # top, left, height, width
    boxes = [random.integers(low, high, len(images)).astype(np.int32) for low, high in ranges]
    theirs = np.stack([erase(image, *box, 1.0) for image, *box in zip(floats, *boxes, strict=True)])
    ours = jax.jit(lambda floats, *boxes: pixels.erase(jnp, floats, *boxes, 1.0))(floats, *boxes)
    yield value_by_value("random_erasing and cutout", ours, theirs)
    for name, numbers in NORMALIZATIONS.items():
        theirs = np.stack([standardize(image, *numbers) for image in images])
        ours = jax.jit(lambda images, numbers=numbers: pixels.standardize(jnp, images, *numbers))(images)
        yield value_by_value(f"normalize {name}", ours, theirs, 1e-6)


def golden() -> dict[str, np.ndarray]:
    """Return small pictures, the parameters of every case, and the results of the oracle.

    "images"; "CASE/0", "CASE/1", ... and "CASE/expected" for `cases`; "operation NAME MAGNITUDE/expected" for one
    magnitude of each operation; "magnitudes POLICY NAME" for all; and "normalize NAME/expected".
    """
    images = pictures(4, size=24)
    arrays = {"images": images}
    for case in cases(len(images), reach=5):
        arrays |= {f"{case.what}/{i}": parameter for i, parameter in enumerate(case.parameters)}
        arrays[f"{case.what}/expected"] = case.expected(images)
    for policy, (names, bins, wide) in SPACES.items():
        for name in names:
            values = arrays[f"magnitudes {policy} {name}"] = magnitudes(name, bins, wide)
            if policy == "rand_augment" or name == "Invert":
                sign = -1 if name in autoaugment.SIGNED else 1
                magnitude = float(sign * values[bins * 2 // 3])
                expected = [operation(image, name, magnitude) for image in images]
                arrays[f"operation {name} {magnitude}/expected"] = np.stack(expected)
    for name, numbers in NORMALIZATIONS.items():
        arrays[f"normalize {name}/expected"] = np.stack([standardize(image, *numbers) for image in images])
    return arrays
