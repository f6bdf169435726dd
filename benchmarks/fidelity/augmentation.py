"""Augmentation against torchvision's definitions: every operation, given the same drawn parameters.

torchvision's transforms on PIL images delegate to Pillow, so the oracle here is Pillow itself, called as the
documentation and the formulas of torchvision.transforms.functional say; erasing and normalisation, which torchvision
defines on tensors, are PyTorch's. A difference is the fraction of values that are off by more than 1/255.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.fidelity import Row
from resnet_flax.data.augment import autoaugment, pixels
from resnet_flax.data.augment.policy import NORMALIZATIONS

BOUND = 0.005  # of the values, as torchvision's two backends differ among themselves, too
SIZE = 32
RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}


# The oracle: one image (H, W, 3) uint8 and the parameters of one image.


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
    """The inverse of T(centre + move) R(angle) Shear_y Shear_x Scale T(-centre), as torchvision documents it."""
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


def adjust(image: np.ndarray, kind: int, factor: float) -> np.ndarray:
    return _pillow(lambda x: ENHANCERS[int(kind)](x).enhance(float(factor)), image)


def sharpen(image: np.ndarray, factor: float) -> np.ndarray:
    return _pillow(lambda x: ImageEnhance.Sharpness(x).enhance(float(factor)), image)


def rotate_hue(image: np.ndarray, steps: int) -> np.ndarray:
    def turned(picture: Image.Image) -> Image.Image:
        hue, saturation, value = picture.convert("HSV").split()
        hue = Image.fromarray(((np.asarray(hue, np.int32) + steps) % 256).astype(np.uint8))
        return Image.merge("HSV", (hue, saturation, value)).convert("RGB")

    return _pillow(turned, image)


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    return _pillow(lambda x: ImageOps.solarize(x, float(threshold)), image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    return _pillow(lambda x: ImageOps.posterize(x, int(bits)), image)


def operation(image: np.ndarray, name: str, magnitude: float) -> np.ndarray:
    """An operation of AutoAugment and its kin at a signed magnitude, as torchvision applies it."""
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
            return adjust(image, pixels.BRIGHTNESS, 1 + magnitude)
        case "Contrast":
            return adjust(image, pixels.CONTRAST, 1 + magnitude)
        case "Color":
            return adjust(image, pixels.SATURATION, 1 + magnitude)
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
    """uint8 (n, size, size, 3): patches, gradients, noise; some pale, some grey, some of few levels, one flat."""
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


def fraction_off(ours: Any, theirs: np.ndarray) -> float:
    """The fraction of uint8 values that are more than one level apart."""
    return float(np.mean(np.abs(np.asarray(ours, np.int32) - np.asarray(theirs, np.int32)) > 1))


def cases(
    n: int, reach: int = 16, seed: int = 1
) -> Iterator[tuple[str, Callable[..., Any], Callable[..., np.ndarray], list]]:
    """(what, our formula of a batch, the oracle of one image, parameters (n,) each) for all on uint8 images; `reach`
    bounds the moves, in pixels."""
    random = np.random.default_rng(seed)

    def real(low: float, high: float) -> np.ndarray:
        return random.uniform(low, high, n).astype(np.float32)

    def whole(low: int, high: int) -> np.ndarray:
        return random.integers(low, high + 1, n).astype(np.int32)

    def ours_rotate(images: np.ndarray, angle: np.ndarray, interpolation: str) -> np.ndarray:
        return ours_affine(images, -angle, 0 * angle, 0 * angle, 0 * angle + 1, 0 * angle, interpolation)

    def ours_affine(images: np.ndarray, *parameters: Any) -> np.ndarray:
        matrix = pixels.affine_matrix(np, images.shape[1:3], *parameters[:-1])
        return pixels.affine(np, images, matrix, parameters[-1])

    def plain(formula: Callable[..., Any]) -> Callable[..., Any]:
        return lambda images, *parameters: formula(np, images, *parameters)

    top, left = whole(0, 8), whole(0, 8)
    yield "crop 4", lambda x, t, r: pixels.shift(np, x, 4 - t, 4 - r), lambda x, t, r: crop(x, 4, t, r), [top, left]
    yield "flip", plain(pixels.mirror), mirror, [whole(0, 1) > 0]
    yield "translate, whole pixels", plain(pixels.shift), shift, [whole(-reach, reach), whole(-reach, reach)]
    for kind in ("nearest", "bilinear"):
        for degrees in (10, 15, 180):
            yield (
                f"rotate {degrees}, {kind}",
                lambda x, a, kind=kind: ours_rotate(x, a, kind),
                lambda x, a, kind=kind: rotate(x, float(a), kind),
                [real(-degrees, degrees)],
            )
        yield (
            f"affine, {kind}",
            lambda x, *p, kind=kind: ours_affine(x, *p, kind),
            lambda x, *p, kind=kind: affine(x, *map(float, p), kind),
            [real(-30, 30), np.round(real(-6, 6)), np.round(real(-6, 6)), real(0.7, 1.4), real(-20, 20)],
        )
    for kind, name in enumerate(("brightness", "contrast", "saturation")):
        for strength in (0.1, 0.2, 1.0):
            yield (
                f"color_jitter, {name} {strength}",
                lambda x, f, kind=kind: pixels.adjust(np, x, np.full(n, kind, np.int32), f),
                lambda x, f, kind=kind: adjust(x, kind, f),
                [real(1 - strength, 1 + strength)],
            )
    for hue in (0.1, 0.5):
        steps = (real(-hue, hue) * 255).astype(np.int32)
        yield f"color_jitter, hue {hue}", plain(pixels.rotate_hue), rotate_hue, [steps]
    for factor in (0.0, 0.5, 2.0):
        yield f"sharpness {factor:g}", plain(pixels.sharpen), sharpen, [np.full(n, factor, np.float32)]
    yield "solarize", plain(pixels.solarize), solarize, [real(0, 256)]
    bits = whole(1, 8)
    yield "posterize", lambda x, b: pixels.posterize(np, x, 2.0 ** np.float32(8 - b)), posterize, [bits]


def _spaces() -> Iterator[tuple[str, str, list[float]]]:
    """(policy, operation, signed magnitudes) of all that the automatic policies can draw."""
    every = sorted({text.split()[0] for pair in autoaugment.CIFAR10 for text in pair.split(", ")})
    for policy, names, bins, wide in (
        ("autoaugment", every, 10, False),
        ("rand_augment", autoaugment.PLAIN, 31, False),
        ("trivial_augment", autoaugment.PLAIN, 31, True),
    ):
        for name in names:
            strengths = autoaugment.magnitudes(name, bins, (SIZE, SIZE), wide)
            signs = (-1, 1) if name in autoaugment.SIGNED else (1,)
            yield policy, name, [float(sign * strength) for sign in signs for strength in np.unique(strengths)]


def compare() -> Iterator[Row]:
    """All comparisons on 256 made-up images."""
    images = pictures(256)
    for what, ours, oracle, parameters in cases(len(images)):
        expected = [oracle(image, *drawn) for image, *drawn in zip(images, *parameters, strict=True)]
        yield Row(what, fraction_off(ours(images, *parameters), np.stack(expected)), BOUND)
    some = images[:32]
    for policy, name, strengths in _spaces():
        worst = 0.0
        for strength in strengths:
            table = autoaugment.table([autoaugment.operation(name, strength, (SIZE, SIZE))])
            ours = autoaugment.apply(np, some, table, np.zeros(len(some), np.int32))
            worst = max(worst, fraction_off(ours, np.stack([operation(image, name, strength) for image in some])))
        yield Row(f"{policy}, {name}", worst, BOUND)
    for what, ours, theirs, bound in _tensors(images):
        yield Row(what, float(np.abs(ours - theirs).max()), bound)


def _tensors(images: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    """(what, ours, the oracle's, bound of the largest difference) for the operations on float32."""
    random = np.random.default_rng(2)
    floats = random.normal(size=images.shape).astype(np.float32)
    ranges = ((-4, 32), (-4, 32), (0, 20), (0, 20))  # top, left, height, width
    boxes = [random.integers(low, high, len(images)).astype(np.int32) for low, high in ranges]
    theirs = np.stack([erase(image, *box, 1.0) for image, *box in zip(floats, *boxes, strict=True)])
    yield "random_erasing and cutout", pixels.erase(np, floats, *boxes, 1.0), theirs, 0.0
    for name, numbers in NORMALIZATIONS.items():
        theirs = np.stack([standardize(image, *numbers) for image in images])
        yield f"normalize {name}", pixels.standardize(np, images, *numbers), theirs, 1e-5


def golden() -> dict[str, np.ndarray]:
    """Small pictures, the parameters of every case, and what the oracle makes of them.

    "images"; "CASE/0", "CASE/1", ... and "CASE/expected" for `cases`; "operation NAME MAGNITUDE/expected"; and
    "normalize NAME/expected".
    """
    images = pictures(4, size=24)
    arrays = {"images": images}
    for what, _, oracle, parameters in cases(len(images), reach=5):
        arrays |= {f"{what}/{i}": parameter for i, parameter in enumerate(parameters)}
        expected = [oracle(image, *drawn) for image, *drawn in zip(images, *parameters, strict=True)]
        arrays[f"{what}/expected"] = np.stack(expected)
    for policy, name, strengths in _spaces():
        if policy == "rand_augment" or name == "Invert":
            strength = round(strengths[len(strengths) // 3], 3)
            expected = [operation(image, name, strength) for image in images]
            arrays[f"operation {name} {strength}/expected"] = np.stack(expected)
    for name, numbers in NORMALIZATIONS.items():
        arrays[f"normalize {name}/expected"] = np.stack([standardize(image, *numbers) for image in images])
    return arrays
