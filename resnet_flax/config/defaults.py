"""Every field of a config with its default, and what a recipe starts from."""

from functools import cache
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from ml_collections.config_flags import config_path

from resnet_flax.errors import UserError, lookup


def get_config() -> ConfigDict:
    """Every field with its default: a tiny network on the digits that scikit-learn carries."""
    return ConfigDict(
        dict(
            seed=0,
            parallel="jit",  # "jit" over a mesh of all devices, or "pmap"
            data=dict(
                name="digits",
                dir="",  # where it lies: of "folder" your images; "" is TFDS_DATA_DIR, or TFDS's own default
                # Splits in the syntax of TFDS. None is as fits what the dataset has: train[:90%], train[90%:] and test.
                train=placeholder(str),
                validation=placeholder(str),  # "" for none: then the last epoch is the result
                test=placeholder(str),  # "" for none: a run that only chooses, by validation, needs not look at it
                classes=placeholder(tuple),  # the names of its classes; None is as the dataset has them
                image_size=32,  # height and width; images in folders are resized to it
                train_examples=0,  # keep only so many of the training split; 0 keeps all
                feed="auto",  # "device" (what trains) if the images fit there, or else "tfdata" (the host)
                policy="crop(4)|flip|normalize(auto)",
                concat_original=False,  # an epoch is the augmented and the plain training split, shuffled together
            ),
            model=dict(
                name="tiny",
                stem=placeholder(str),
                block=placeholder(str),
                blocks=placeholder(tuple),
                widths=placeholder(tuple),
                activation=placeholder(str),
                stem_dropout=placeholder(float),
                block_dropout=placeholder(float),
                final_norm=placeholder(bool),
                kernel_init="torch",  # or "he_normal", "dirac"
                compute_dtype="auto",  # bfloat16 on GPU and TPU, float32 on CPU
                max_params=0,  # refuse a network with more; 0 is no limit
            ),
            optimizer=dict(
                name="sgd",
                learning_rate=0.1,
                bias_lr_factor=1.0,  # times the learning rate is that of biases, BatchNorm's too
                weight_decay=0.0,
                clip_norm=0.0,  # largest global norm of the gradient; 0 is no clipping
                momentum=0.9,  # sgd, muon
                nesterov=False,
                dampening=0.0,
                b1=0.9,  # adam, adamw
                b2=0.999,
                eps=1e-8,  # adam, adamw, adagrad
            ),
            schedule=dict(
                name="constant",
                per="epoch",  # stepped once per "epoch" or per "step"
                milestones=(),  # multistep: epochs
                factor=0.1,  # multistep, step_decay
                every=30,  # step_decay: epochs
                end_factor=0.0,  # cosine, warmup_cosine: last over peak learning rate
                warmup=5,  # warmup_cosine: epochs
                warmup_offset=1,
                decay=0,  # warmup_cosine: epochs of the cosine; 0 ends it with the training
                rise=0.3,  # onecycle: fraction of the steps before the peak
                anneal="cosine",  # or "linear"
                three_phase=False,
                start_divisor=25.0,
                end_divisor=1e4,
                cycle_momentum=True,
                min_momentum=0.85,
                max_momentum=0.95,
            ),
            train=dict(
                epochs=10,
                batch_size=128,
                label_smoothing=0.0,
                ema_decay=0.0,  # answer with a moving average of the weights that decays by so much a step; 0 for none
                checkpoint_every=1,  # epochs
                monitor="val_accuracy",  # what the best checkpoint is best at, or "val_loss"
                patience=0,  # stop after so many epochs without a new best; 0 never stops early
                min_delta=0.0,  # what counts as better by the patience
            ),
        )
    )


def recipe(network: str, arg: str, *choices: tuple[str, ...]) -> tuple[ConfigDict, tuple[str, ...]]:
    """The default config for `network` on CIFAR-10 under the budget of the reports, and the words chosen in `arg`.

    `arg` is what follows the file's name in --config=FILE:ARG: words with commas between. "full" trains on everything
    with nothing held out; each of `choices` is a tuple of words of which `arg` may have one, the first if it has none.
    Raises UserError for any other word.
    """
    words = [word for word in arg.split(",") if word]
    known = {word: index for index, options in enumerate(choices) for word in options} | {"full": len(choices)}
    kinds = [lookup("config argument", word, known) for word in words]
    if len(set(kinds)) < len(kinds):
        raise UserError(f"config argument {arg!r} chooses one thing twice")
    config = get_config()
    config.model.name = network
    config.model.max_params = 5_000_000
    config.data.name = "cifar10"
    if "full" in words:
        config.data.train, config.data.validation = "train", ""
    return config, tuple(next((word for word in words if word in options), options[0]) for options in choices)


@cache
def field_types() -> dict[str, tuple[type, bool]]:
    """Field -> (its type, whether None may stand for what the network or the dataset has)."""
    config = get_config()
    values = flatten(config.to_dict())
    return {field: (config_path.get_type(field, config), value is None) for field, value in values.items()}


def speed_recipe(network: str, arg: str, epochs: int) -> ConfigDict:
    """Return what the recipes for speed share: Muon under one cycle, large batches, one checkpoint at the end."""
    config, _ = recipe(network, arg)
    config.model.kernel_init = "dirac"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.85
    config.optimizer.nesterov = True
    config.optimizer.bias_lr_factor = 8.0
    config.schedule.name = "onecycle"
    config.schedule.per = "step"
    config.schedule.anneal = "linear"
    config.schedule.rise = 0.23
    config.schedule.start_divisor = 5.0
    config.schedule.end_divisor = 1e3
    config.schedule.cycle_momentum = False
    config.train.batch_size = 1000
    config.train.epochs = config.train.checkpoint_every = epochs
    config.train.label_smoothing = 0.2
    return config


def flatten(nested: dict, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        nests = isinstance(value, dict) and value
        flat |= flatten(value, f"{prefix}{key}.") if nests else {f"{prefix}{key}": value}
    return flat
