"""Build what a config describes: data, network, optimizer and compiled steps."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from resnet_flax import models
from resnet_flax.config.checks import resolve_normalization
from resnet_flax.config.defaults import flatten
from resnet_flax.data.augment.mixing import Mixing
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.fingerprint import fingerprint
from resnet_flax.data.datasets.load import load_dataset
from resnet_flax.data.stream import Stream
from resnet_flax.errors import UserError
from resnet_flax.optim import optimizers, schedules
from resnet_flax.parallel.devices import PARALLEL, Parallel, check_batch_size
from resnet_flax.text import short_repr
from resnet_flax.training import dispatch
from resnet_flax.training.classifier import ON_DEVICE_BYTES, Classifier
from resnet_flax.training.resizing import Resizing
from resnet_flax.training.step import TrainState, init_state, kernels_in, train_step
from resnet_flax.training.teacher import checksums, load_teacher
from resnet_flax.workdir.code import code_digest
from resnet_flax.workdir.identity import identity


class Run:
    """The parts of a run, built from a complete `config`; `identity` is what a checkpoint records of it.

    Raises UserError for any mistake that can be found before compiling.
    """

    def __init__(self, config: FrozenConfigDict) -> None:
        train = config.train
        check_batch_size(train.batch_size)
        self.config = config = resolve_normalization(config)
        self.data = load_dataset(config.data)
        policy = Policy(config.data.policy)
        self.stream = Stream(self.data.train, policy, train.batch_size, config.seed, config.data.concat_original)
        if self.stream.steps_per_epoch == 0:
            examples = self.stream.epoch_size
            raise UserError(
                f"config.train.batch_size {train.batch_size} is more than the {examples} examples of an epoch"
            )
        self.parallel: Parallel = PARALLEL[config.parallel]()
        self.model = models.build(config, self.parallel.axis_name)
        self.parameters = models.count_within_budget(self.model, config.model, self.data.train.images.shape[1:])
        self.classifier = Classifier(config)
        self.optimizer = optimizers.build(config.optimizer)
        span = schedules.Span(train.epochs, self.stream.steps_per_epoch, config.schedule.per)
        self.learning_rate, self.momentum = schedules.learning_rate(config, span), schedules.momentum(config, span)
        self.teacher, self.teacher_variables = load_teacher(config)
        self.identity = identity(config, fingerprint(config.data), checksums(config, self.teacher_variables))

    def description(self) -> dict[str, str]:
        """Return what all processes of a run must have in common: name -> value."""
        fields = {f"config.{name}": short_repr(value) for name, value in flatten(self.identity["config"]).items()}
        data = {f"data of config.data.{role}": str(examples) for role, examples in self.identity["data"].items()}
        teacher = {f"weights of {path}": crc for path, crc in self.identity.get("teacher", {}).items()}
        return {"code of resnet_flax": code_digest(), "version of jax": jax.__version__} | fields | data | teacher

    def fresh_state(self) -> TrainState:
        """Return the state before the first step, on all devices."""
        image_shape, averaged = self.data.train.images.shape[1:], self.config.train.ema_decay > 0

        def init(seed, statistics):
            return init_state(self.model, self.optimizer, seed, image_shape, averaged, statistics)

        # Optimising this program would cost more time than it saves.
        quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        compiled = jax.jit(init, compiler_options=quick)
        return self.parallel.replicate(compiled(self.seed, self.statistics()))

    @property
    def seed(self) -> np.uint32:
        """The seed as an argument of compiled programs."""
        return np.uint32(self.config.seed)

    def scheduled(self, epoch: int) -> dict[str, np.ndarray]:
        """Return the optimizers.Hyperparams at the steps of an epoch (from 0), (steps,) float32 each."""
        steps = np.arange(self.stream.steps_per_epoch) + epoch * self.stream.steps_per_epoch
        decay = np.full(len(steps), self.config.optimizer.weight_decay, np.float32)
        return optimizers.Hyperparams(self.learning_rate(steps), self.momentum(steps), decay)._asdict()

    def constants(self) -> dict[str, Any]:
        """Return the arguments that all steps share: the seed, and the variables of the teacher's networks."""
        return self.parallel.replicate({"seed": self.seed, "teacher_variables": self.teacher_variables})

    def statistics(self) -> dict:
        """Return what the network computes from the training images before it trains, see models.statistics."""
        return models.statistics(self.model, self.data.train.images, partial(self.stream.policy.normalize, jnp))

    def step(self) -> dispatch.TrainStep:
        """Return the training step of this run, not compiled.

        Settings that often change are arguments, so that runs that differ only in the seed or the Hyperparams share
        one program, which is compiled once.
        """
        step = partial(
            train_step,
            model=self.model,
            optimizer=self.optimizer,
            label_smoothing=self.config.train.label_smoothing,
            resizing=self.resizing(),
            sam_radius=self.config.train.sam_radius,
            ema_decay=self.config.train.ema_decay,
            frozen=self.config.train.freeze,
            mixing=Mixing.of(self.config.train),
            teacher=self.teacher,
            axis_name=self.parallel.axis_name,
        )
        return lambda state, totals, batch, scheduled, constants, kernels=(): step(
            state, totals, batch, constants["teacher_variables"], kernels, seed=constants["seed"], hyperparams=scheduled
        )

    def resizing(self) -> Resizing | None:
        """Return what makes the images of the first steps smaller, or None if all have their full size."""
        train = self.config.train
        steps = int(train.small_share * train.epochs * self.stream.steps_per_epoch)
        return Resizing(train.small_size, steps) if steps else None

    def rounded(self, state: TrainState) -> list[jax.Array]:
        """Return the kernels that the next step uses instead of those of `state`, or []: see models.convolution."""
        if jax.default_backend() != "gpu" or self.model.dtype == jnp.float32:
            return []
        return kernels_in(self.model.dtype, state.params)

    def advance(self, first_step: int) -> dispatch.Advance:
        """Return the function that sends the training steps, from `first_step` on, to the devices."""
        feed = self.config.data.feed
        if feed == "auto":
            feed = "device" if self.data.train.images.nbytes < ON_DEVICE_BYTES else "tfdata"
        length = dispatch.group_length(self.stream.steps_per_epoch) if jax.default_backend() == "gpu" else 0
        on_device = partial(dispatch.device_steps, rounded=self.rounded, length=length)
        start = on_device if feed == "device" else dispatch.host_steps
        return start(self.step(), self.stream, self.scheduled, first_step, self.parallel, self.constants())
