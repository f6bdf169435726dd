"""The two feeds give the same batches, which depend on the seed and the step alone."""

import itertools

import jax
import numpy as np
import pytest

from resnet_flax.data import host_feed
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.arrays import Split
from resnet_flax.data.device_feed import DeviceFeed
from resnet_flax.data.stream import Stream
from resnet_flax.parallel.devices import Jit

EXAMPLES, BATCH = 50, 8


@pytest.fixture(scope="module")
def split() -> Split:
    images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, 32, 32, 3), np.uint8)
    return Split(images, np.arange(EXAMPLES, dtype=np.int32))


def stream(split: Split, seed: int = 3, policy: str = "crop(4)|flip|normalize(cifar10)", concat: bool = False):
    return Stream(split, Policy(policy), BATCH, seed, concat)


def take(feed, count: int) -> list[dict[str, np.ndarray]]:
    return [jax.device_get(batch) for batch in itertools.islice(feed, count)]


def device_batches(one: Stream, first_step: int, parallel: Jit):
    feed = DeviceFeed(one, parallel)
    batch = jax.jit(feed.batch)
    for step in itertools.count(first_step):
        epoch, position = divmod(step, one.steps_per_epoch)
        yield batch(feed.arrays, feed.order(epoch), epoch, position)


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a["label"], b["label"])
        np.testing.assert_allclose(a["image"], b["image"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("concat", [False, True])
def test_both_feeds_give_the_same_batches(split, concat):
    one = stream(split, concat=concat)
    count = 2 * one.steps_per_epoch + 1
    assert_same(take(host_feed.batches(one, 0), count), take(device_batches(one, 0, Jit()), count))


@pytest.mark.parametrize("feed", ["tfdata", "device"])
def test_batch_depends_on_seed_and_step_alone(split, feed):
    def batches(seed, first_step, count):
        one = stream(split, seed)
        return take(
            host_feed.batches(one, first_step) if feed == "tfdata" else device_batches(one, first_step, Jit()), count
        )

    whole = batches(3, 0, 15)
    assert_same(batches(3, 0, 15), whole)
    for first_step in (1, 5, 6, 13):  # within an epoch, and where one starts (6 steps each)
        assert_same(batches(3, first_step, 2), whole[first_step:][:2])
    assert any((a["label"] != b["label"]).any() for a, b in zip(batches(4, 0, 6), whole, strict=False))


def test_epoch_is_a_permutation_and_epochs_differ(split):
    one = stream(split)
    assert one.steps_per_epoch == 6
    labels = [batch["label"] for batch in take(host_feed.batches(one, 0), 12)]
    first, second = np.concatenate(labels[:6]), np.concatenate(labels[6:])
    assert len(set(first.tolist())) == len(first) == 48
    assert (first != second).any()


def test_labels_go_with_their_images(split):
    one = stream(split, policy="normalize(half)")
    for batch in take(host_feed.batches(one, 0), 6):
        expected = (split.images[batch["label"]] / np.float32(255) - 0.5) / 0.5
        np.testing.assert_allclose(batch["image"], expected, atol=1e-6)


def test_concat_original_is_the_augmented_and_the_plain_split(split):
    one = stream(split, policy="crop(4)|normalize(half)", concat=True)
    assert (one.epoch_size, one.steps_per_epoch) == (100, 12)
    batches = take(host_feed.batches(one, 0), 12)
    plain = (split.images / np.float32(255) - 0.5) / 0.5
    untouched = [
        np.allclose(image, plain[label], atol=1e-6)
        for batch in batches
        for image, label in zip(batch["image"], batch["label"], strict=True)
    ]
    # A crop is the identity once in 81 times.
    assert 45 <= sum(untouched) <= 55
    counts = np.bincount(np.concatenate([batch["label"] for batch in batches]), minlength=EXAMPLES)
    assert counts.max() == 2


def test_processes_share_a_batch(split, monkeypatch):
    one = stream(split)
    whole = take(host_feed.batches(one, 0), 2)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    halves = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        halves.append(take(host_feed.batches(one, 0), 2))
    for batch, left, right in zip(whole, *halves, strict=True):
        assert len(left["label"]) == BATCH // 2
        np.testing.assert_array_equal(np.concatenate([left["image"], right["image"]]), batch["image"])
