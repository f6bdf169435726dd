"""Mixed batches, and losses with soft targets, against PyTorch.

MixUp and CutMix are written here in torch as defined by torchvision.transforms.v2, RICAP as defined by its paper, and
they get the same draws: the share, for CutMix the centre of the box, for RICAP the boundaries and the crops. The losses
are torch.nn.functional's.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.fidelity import Row, relative, value_by_value
from resnet_flax.data.augment.mixing import Patches, Shares, cutmix_shares, mix, mixup_shares, patch, patch_shares
from resnet_flax.training.batch import TrainBatch, with_rows_before
from resnet_flax.training.distillation import divergence
from resnet_flax.training.step import cross_entropy

BATCH, SIZE, CLASSES = 6, (24, 20), 10  # height and width differ
SMOOTHINGS = (0.0, 0.1)
TEMPERATURES = (1.0, 4.0)


class Draw(NamedTuple):
    """The draw of MixUp or CutMix: the share, and for CutMix the centre of the box, None for MixUp."""

    share: np.float32
    centre: tuple[int, int] | None  # x, y


def draws(count: int, seed: int = 0) -> dict[str, list[Draw | Patches]]:
    """Return `count` draws of each method.

    Those of CutMix include boxes without pixels, of all pixels, and with whole sides; those of RICAP include patches
    without pixels, and one that is the whole image.
    """
    random = np.random.default_rng(seed)
    shares = random.beta(1, 1, 2 * count).astype(np.float32)
    shares[-4:] = 0.0, 1.0, 0.75, np.nextafter(np.float32(0.75), np.float32(1))
    places = random.integers(0, SIZE[::-1], (count, 2)).tolist()
    boundaries = random.integers(0, np.add(SIZE, 1), (count, 2)).astype(np.int32)
    boundaries[:3] = SIZE, (0, 7), (11, SIZE[1])
    return {
        "mixup": [Draw(share, None) for share in shares[:count]],
        "cutmix": [Draw(share, (x, y)) for share, (x, y) in zip(shares[count:], places, strict=True)],
        "ricap": [patches(random, low, left) for low, left in boundaries],
    }


def patches(random: np.random.Generator, low: np.int32, left: np.int32) -> Patches:
    """Return four patches that meet at row `low` and column `left`, with crops from anywhere in their images."""
    (height, width), right, high = SIZE, SIZE[1] - left, SIZE[0] - low
    sizes = np.array([(low, left), (low, right), (high, left), (high, right)], np.int32)
    return Patches(sizes, random.integers(0, np.array((height, width)) - sizes + 1).astype(np.int32))


def batch(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(BATCH, *SIZE, 3)).astype(np.float32), random.integers(0, CLASSES, BATCH, np.int32)


@jax.jit
def _mixed(images: jax.Array, labels: jax.Array, shares: Shares) -> tuple[jax.Array, jax.Array]:
    image = mix(*with_rows_before(images, 2, None), shares.pixels)
    mixed = TrainBatch(image, with_rows_before(labels, 2, None), (shares.label, 1 - shares.label))
    return image, mixed.targets(CLASSES)


@jax.jit
def _patched(images: jax.Array, labels: jax.Array, patches: Patches) -> tuple[jax.Array, jax.Array]:
    image = patch(jnp, with_rows_before(images, 4, None), patches)
    mixed = TrainBatch(image, with_rows_before(labels, 4, None), patch_shares(jnp, patches, SIZE))
    return image, mixed.targets(CLASSES)


def ours(images: np.ndarray, labels: np.ndarray, draw: Draw | Patches) -> tuple[np.ndarray, np.ndarray]:
    """Return (images, targets) as the training step mixes them."""
    if isinstance(draw, Patches):
        image, targets = _patched(images, labels, draw)
        return np.asarray(image), np.asarray(targets)
    share = jnp.asarray([draw.share])
    if draw.centre is None:
        shares = mixup_shares(jnp, share, SIZE)
    else:
        x, y = (np.array([place], np.int32) for place in draw.centre)
        shares = _box(share, x, y)
    image, targets = _mixed(images, labels, shares)
    return np.asarray(image), np.asarray(targets)


@jax.jit
def _box(share: jax.Array, x: jax.Array, y: jax.Array) -> Shares:
    return cutmix_shares(jnp, share, x, y, SIZE)


def theirs(images: np.ndarray, labels: np.ndarray, draw: Draw | Patches) -> tuple[np.ndarray, np.ndarray]:
    """Return the same by the definition of torchvision, or of RICAP's paper."""
    import torch

    image = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
    label = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), CLASSES).float()
    if isinstance(draw, Patches):
        crops = [
            image.roll(number, 0)[..., row : row + height, column : column + width]
            for number, ((height, width), (row, column)) in enumerate(zip(*map(np.ndarray.tolist, draw), strict=True))
        ]
        image = torch.cat([torch.cat(crops[:2], 3), torch.cat(crops[2:], 3)], 2)
        shares = [crop[0, 0].numel() / image[0, 0].numel() for crop in crops]
        targets = sum(share * label.roll(number, 0) for number, share in enumerate(shares))
        return image.permute(0, 2, 3, 1).numpy(), targets.numpy()
    share, rolled = float(draw.share), image.roll(1, 0)
    if draw.centre is None:
        image = rolled * (1.0 - share) + image * share
    else:
        (height, width), (x, y) = SIZE, draw.centre
        half = 0.5 * (1.0 - share) ** 0.5
        left, right = max(x - int(half * width), 0), min(x + int(half * width), width)
        top, bottom = max(y - int(half * height), 0), min(y + int(half * height), height)
        image = image.clone()
        image[..., top:bottom, left:right] = rolled[..., top:bottom, left:right]
        share = 1.0 - (right - left) * (bottom - top) / (width * height)
    return image.permute(0, 2, 3, 1).numpy(), (label.roll(1, 0) * (1.0 - share) + label * share).numpy()


def logits_and_targets(seed: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the logits of a network, those of its teacher, and soft targets, (64, CLASSES) float32 each."""
    random = np.random.default_rng(seed)
    student, teacher = (random.normal(0, 4, (64, CLASSES)).astype(np.float32) for _ in range(2))
    return student, teacher, random.dirichlet(np.ones(CLASSES), 64).astype(np.float32)


def our_losses(student: np.ndarray, teacher: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Return, by name, the losses of each example and their gradients with respect to the student's logits."""
    losses: dict[str, Callable] = {
        f"cross-entropy, soft targets, smoothing {smoothing:g}": lambda logits, smoothing=smoothing: cross_entropy(
            logits, jnp.asarray(targets), smoothing
        )
        for smoothing in SMOOTHINGS
    }
    losses |= {
        f"distillation, temperature {temperature:g}": lambda logits, temperature=temperature: divergence(
            logits, jax.nn.softmax(jnp.asarray(teacher) / temperature), temperature
        )
        for temperature in TEMPERATURES
    }
    found = {}
    for name, loss in losses.items():
        found[name] = np.asarray(loss(jnp.asarray(student)))
        found[f"{name}: gradient"] = np.asarray(jax.grad(lambda logits, loss=loss: loss(logits).sum())(student))
    return found


def their_losses(student: np.ndarray, teacher: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same by torch.nn.functional."""
    import torch
    from torch.nn import functional

    logits, others = torch.from_numpy(student).requires_grad_(), torch.from_numpy(teacher)
    losses = {
        f"cross-entropy, soft targets, smoothing {smoothing:g}": functional.cross_entropy(
            logits, torch.from_numpy(targets), label_smoothing=smoothing, reduction="none"
        )
        for smoothing in SMOOTHINGS
    }
    for temperature in TEMPERATURES:
        ours, softened = functional.log_softmax(logits / temperature, 1), functional.softmax(others / temperature, 1)
        losses[f"distillation, temperature {temperature:g}"] = temperature**2 * functional.kl_div(
            ours, softened, reduction="none"
        ).sum(1)
    found = {}
    for name, loss in losses.items():
        found[name] = loss.detach().numpy()
        found[f"{name}: gradient"] = torch.autograd.grad(loss.sum(), logits)[0].numpy()
    return found


def compare() -> Iterator[Row]:
    yield from compare_mixing(("mixup", "cutmix", "ricap"), theirs)
    a, b = our_losses(*logits_and_targets()), their_losses(*logits_and_targets())
    yield from (Row(f"{name}, relative", relative(a[name], b[name]), 1e-6) for name in b)


def compare_mixing(methods: Sequence[str], oracle: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Iterator[Row]:
    """Compare 500 mixed batches of each method, and their targets, with those of `oracle`."""
    images, labels = batch()
    for method in methods:
        pairs = [(ours(images, labels, draw), oracle(images, labels, draw)) for draw in draws(500)[method]]
        for part, (what, bound) in enumerate({"images": 1e-6 if method == "mixup" else 0.0, "targets": 1e-7}.items()):
            stacks = (np.stack([pair[side][part] for pair in pairs]) for side in (0, 1))
            yield value_by_value(f"{method}, {what}", *stacks, bound)


def golden() -> dict[str, np.ndarray]:
    """Return a mixed batch for a few draws, and the losses."""
    images, labels = batch()
    arrays = {}
    for method, some in draws(8).items():
        for number, draw in enumerate(some):
            mixed, targets = theirs(images, labels, draw)
            # One image and one channel show the box.
            arrays |= {f"{method} {number}/images": mixed[:2, ..., 0], f"{method} {number}/targets": targets}
    return arrays | {f"losses/{name}": loss for name, loss in their_losses(*logits_and_targets()).items()}
