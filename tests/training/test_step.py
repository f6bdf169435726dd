"""A training step: its loss, its totals, and BatchNorm and dropout in training and evaluation."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import softmax_cross_entropy_with_integer_labels as loss_of_labels

from resnet_flax.data.augment.mixing import Mixing, draw_patches, draw_shares
from resnet_flax.models.resnet import ResNet
from resnet_flax.training.batch import TrainBatch
from resnet_flax.training.distillation import Teacher, TeacherNetwork
from resnet_flax.training.step import Totals, cross_entropy, eval_step, init_state, moved_average, train_step

SHAPE = (8, 8, 3)


def make_batch(size: int = 16) -> dict:
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(size, *SHAPE)).astype(np.float32),
        "label": rng.integers(0, 10, size).astype(np.int32),
    }


def setup(dropout: float = 0.0):
    model = ResNet((1, 1), (4, 8), stem_dropout=dropout, block_dropout=dropout)
    optimizer = optax.sgd(0.1)
    state = init_state(model, optimizer, 0, SHAPE)
    return state, jax.jit(partial(train_step, model=model, optimizer=optimizer, seed=0)), model


def test_label_smoothing_equals_that_of_torch():
    logits, targets = jnp.array([[2.0, 0.0, -1.0]]), jnp.array([[1.0, 0.0, 0.0]])
    log_probabilities = jax.nn.log_softmax(logits)[0]
    expected = -(0.9 * log_probabilities[0] + 0.1 * log_probabilities.mean())
    np.testing.assert_allclose(cross_entropy(logits, targets, 0.1), [expected], rtol=1e-6)


class Linear(nn.Module):
    """Logits that are linear in the pixels."""

    @nn.compact
    def __call__(self, image, train):
        return nn.Dense(10, name="head")(image.reshape(len(image), -1))


def linear_step(batch: dict, step: int = 0, **arguments) -> tuple[float, float]:
    """Return the mean loss and the accuracy of a step of Linear(), which the seed 0 initialises."""
    optimizer = optax.sgd(0.1)
    state = init_state(Linear(), optimizer, 0, SHAPE).replace(step=jnp.array(step))
    teacher_variables = arguments.pop("teacher_variables", ())
    step = jax.jit(partial(train_step, model=Linear(), optimizer=optimizer, seed=0, **arguments))
    return step(state, Totals.zero(), batch, teacher_variables)[1].means()


def linear_logits(images, seed: int = 0) -> np.ndarray:
    """Return the logits of Linear() that `seed` initialises."""
    return np.asarray(Linear().apply(Linear().init(jax.random.key(seed), images, train=False), images, train=False))


@pytest.mark.parametrize("mixing", [Mixing(mixup=1.0), Mixing(cutmix=1.0)])
def test_a_mixed_step_trains_on_each_image_with_the_one_before_it_and_both_labels(mixing):
    batch = make_batch()
    shares = draw_shares(np, mixing, 0, 3, SHAPE[:2])  # as step 3 draws them
    share = float(shares.label[0])
    assert 0.05 < share < 0.95
    images = shares.pixels * batch["image"] + (1 - shares.pixels) * np.roll(batch["image"], 1, axis=0)
    logits, own, other = linear_logits(images), batch["label"], np.roll(batch["label"], 1)
    expected = share * loss_of_labels(logits, own).mean() + (1 - share) * loss_of_labels(logits, other).mean()
    loss, accuracy = linear_step(batch, 3, mixing=mixing)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert accuracy == np.mean(logits.argmax(1) == (own if share >= 0.5 else other))


def test_a_patched_step_trains_on_crops_of_four_images_and_their_labels_by_area():
    batch, mixing = make_batch(), Mixing(ricap=1.0)
    patches = draw_patches(np, mixing, 0, 6, SHAPE[:2])  # as step 6 draws them
    (low, left), areas = patches.sizes[0], patches.sizes.prod(1)
    assert areas.min() > 0 and areas.sum() == 64 and len(set(areas)) == 4
    images, labels = np.empty_like(batch["image"]), [np.roll(batch["label"], number) for number in range(4)]
    places = [np.s_[:low, :left], np.s_[:low, left:], np.s_[low:, :left], np.s_[low:, left:]]
    for number, (place, (height, width), (row, column)) in enumerate(zip(places, *patches, strict=True)):
        crops = np.roll(batch["image"], number, axis=0)[:, row : row + height, column : column + width]
        images[:, *place] = crops
    logits = linear_logits(images)
    expected = sum(area / 64 * loss_of_labels(logits, ones).mean() for area, ones in zip(areas, labels, strict=True))
    answers = [np.bincount(ones, weights=areas, minlength=10).argmax() for ones in np.stack(labels, 1)]
    loss, accuracy = linear_step(batch, 6, mixing=mixing)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert accuracy == np.mean(logits.argmax(1) == answers)


@pytest.mark.parametrize(
    ("labels", "shares", "answer"),
    [((3,), (1.0,), 3), ((3, 1), (0.5, 0.5), 3), ((3, 1), (0.4, 0.6), 1), ((3, 1, 2, 1), (0.4, 0.3, 0.1, 0.2), 1)],
)
def test_the_right_answer_to_a_mixed_image_is_the_class_with_the_largest_share(labels, shares, answer):
    examples = TrainBatch(jnp.zeros((1, 8, 8, 3)), tuple(jnp.array([label]) for label in labels), shares)
    assert examples.dominant_labels() == jnp.array([answer])


def test_a_taught_step_weighs_the_labels_with_the_teachers_answers():
    batch = make_batch()
    network = TeacherNetwork(Linear(), np.float32([2, 1, 1]), np.float32([0, 0.5, 0]))
    variables = Linear().init(jax.random.key(7), batch["image"], train=False)
    temperature, weight = 3.0, 0.25
    logits = linear_logits(batch["image"])
    others = linear_logits(batch["image"] * network.scale + network.offset, 7)
    softened, answers = jax.nn.log_softmax(logits / temperature), jax.nn.log_softmax(others / temperature)
    divergence = np.sum(np.exp(answers) * (answers - softened), axis=1).mean()
    expected = (1 - weight) * loss_of_labels(logits, batch["label"]).mean() + weight * temperature**2 * divergence
    loss, _ = linear_step(batch, teacher=Teacher((network,), temperature, weight), teacher_variables=(variables,))
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_a_sharpness_aware_step_takes_the_gradient_at_the_radius_and_reports_the_loss_before_it():
    batch, optimizer = make_batch(), optax.sgd(0.1)
    state = init_state(Linear(), optimizer, 0, SHAPE)
    step = jax.jit(partial(train_step, model=Linear(), optimizer=optimizer, seed=0, sam_radius=0.5))

    def loss(params):
        return loss_of_labels(Linear().apply({"params": params}, batch["image"], train=True), batch["label"]).mean()

    uphill = jax.grad(loss)(state.params)
    norm = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(uphill)) ** 0.5
    there = jax.grad(loss)(jax.tree.map(lambda p, g: p + 0.5 * g / norm, state.params, uphill))
    after, totals = step(state, Totals.zero(), batch)
    assert totals.means()[0] == pytest.approx(float(loss(state.params)), rel=1e-5)
    for found, before, gradient, first in zip(
        *map(jax.tree.leaves, (after.params, state.params, there, uphill)), strict=True
    ):
        np.testing.assert_allclose(found, before - 0.1 * gradient, rtol=1e-4, atol=1e-6)
        assert abs(gradient - first).max() > 1e-3


def test_loss_falls_and_totals_add_up():
    state, step, _ = setup()
    batch, losses = make_batch(), []
    for _ in range(60):
        state, totals = step(state, Totals.zero(), batch)
        losses.append(totals.means()[0])
    assert losses[-1] < 0.5 * losses[0]
    state, once = step(state, Totals.zero(), batch)
    state, twice = step(state, once, batch)
    assert (int(once.count), int(twice.count)) == (16, 32)
    assert int(twice.nonfinite_step) == -1
    assert int(state.step) == 62


def test_first_nonfinite_step_is_remembered():
    state, step, _ = setup()
    batch = make_batch()
    state, totals = step(state, Totals.zero(), batch)
    bad = batch | {"image": np.full_like(batch["image"], np.nan)}
    state, totals = step(state, totals, bad)
    state, totals = step(state, totals, batch)
    assert int(totals.nonfinite_step) == 1


class Root(nn.Module):
    """Logits that are finite, with a gradient that is not."""

    @nn.compact
    def __call__(self, image, train):
        return jnp.sqrt(self.param("root", nn.initializers.zeros, (10,))) + jnp.zeros((len(image), 1))


def test_gradient_that_is_not_finite_is_noticed_though_the_loss_is_finite():
    optimizer = optax.sgd(0.1)
    state = init_state(Root(), optimizer, 0, SHAPE)
    _, totals = train_step(state, Totals.zero(), make_batch(), model=Root(), optimizer=optimizer, seed=0)
    assert np.isfinite(totals.loss)
    assert int(totals.nonfinite_step) == 0


def test_dropout_changes_with_the_step_and_repeats_with_it():
    state, step, _ = setup(dropout=0.5)
    batch = make_batch()
    loss = [step(state.replace(step=jnp.array(at)), Totals.zero(), batch)[1].means()[0] for at in (0, 0, 1)]
    assert loss[0] == loss[1] != loss[2]


def test_batchnorm_trains_on_the_batch_and_evaluates_on_running_statistics():
    state, _, model = setup()
    batch = make_batch()
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    _, updates = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
    stem = model.apply(variables, batch["image"], train=False, capture_intermediates=True, mutable=["intermediates"])
    outputs = stem[1]["intermediates"]["stem_conv"]["__call__"][0]
    mean, var = outputs.mean((0, 1, 2)), outputs.var((0, 1, 2), ddof=1)
    running = updates["batch_stats"]["stem_norm"]
    np.testing.assert_allclose(running["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(running["var"], 0.9 + 0.1 * var, rtol=1e-5)
    one, many = (model.apply(variables, batch["image"][:n], train=False)[0] for n in (1, 16))
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-6)


def test_evaluation_gives_log_probabilities_of_normalised_images():
    state, _, model = setup()
    images = np.random.default_rng(1).integers(0, 256, (11, *SHAPE), np.uint8)
    normalize = partial(jnp.asarray, dtype=jnp.float32)
    logits = model.apply({"params": state.params, "batch_stats": state.batch_stats}, normalize(images), train=False)
    given = eval_step(state.variables, {"image": images}, model=model, normalize=normalize)
    np.testing.assert_allclose(given, jax.nn.log_softmax(logits), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.exp(given).sum(1), 1, rtol=1e-5)


def test_an_average_of_many_steps_reaches_weights_that_no_longer_change():
    """With the usual formula at every step, it would stay at 1: an increment is less than its rounding."""

    def follow(step, average):
        return moved_average(average, {"w": jnp.float32(1.001)}, 0.99997, step)

    average = jax.lax.fori_loop(10**6, 13 * 10**5, follow, {"w": jnp.float32(1.0)})
    assert abs(float(average["w"]) - 1.001) < 1e-4


def test_an_average_of_few_steps_moves_at_every_step():
    old, new = {"w": jnp.float32(1.0)}, {"w": jnp.float32(2.0)}
    assert [float(moved_average(old, new, 0.9, jnp.int32(step))["w"]) for step in (1, 1000)] == pytest.approx(
        [1.9, 1.1]
    )
