"""All fields of a config with their defaults, and what recipes start from."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import placeholder

from resnet_flax.errors import UserError, lookup


def get_config() -> ConfigDict:
    """Return the default config: a tiny network on the handwritten digits of scikit-learn.

    The recipes in `configs/` start from it. Each field has the type of its default, or of its placeholder, a None that
    the network or the dataset fills in.
    """
    return ConfigDict(
        dict(
            seed=0,  # of initial weights, shuffling, augmentation, dropout and drop_path
            parallel="jit",  # how several devices are used: "jit" over a mesh of them, or "pmap"
            data=dict(
                name="digits",  # a dataset: see SOURCES in data/datasets/sources.py; "folder" is your own images
                dir="",  # its folder; "" for TFDS_DATA_DIR or the default of TensorFlow Datasets
                # Splits in the syntax of TFDS, such as train[:90%]. None: whatever suits the splits that the dataset
                # has; with only train and test, these are train[:90%], train[90%:] and test, or all of train if no
                # validation is wanted.
                train=placeholder(str),  # trained on
                validation=placeholder(str),  # selects the best epoch; "" for none: the last epoch is the result
                test=placeholder(str),  # evaluated once, at the end; "" for none
                classes=placeholder(tuple),  # names of the classes; None: those of the dataset
                image_size=32,  # pixels, height and width; images in folders are resized to it
                train_examples=0,  # use only this many training examples, the first ones; 0 for all
                feed="auto",  # batches from the "device", or the host ("tfdata"); "auto": device if the images fit
                policy="crop(4)|flip|normalize(auto)",  # augmentation, from left to right; see data/augment/policy.py
                concat_original=False,  # an epoch is the augmented and the original examples, shuffled together
            ),
            model=dict(
                name="tiny",  # a network: see NETWORKS in models/__init__.py
                # Parts of the network; None: as defined by the network.
                stem=placeholder(str),  # "conv", a 3x3 convolution, or "whitening", which is computed, not trained
                stem_width=placeholder(int),  # channels of a "conv" stem; 0: those of the first stage
                block=placeholder(str),  # "basic", "bottleneck", "preact" or "pool"
                blocks=placeholder(tuple),  # number of blocks of each stage
                widths=placeholder(tuple),  # channels of each stage
                bottleneck_ratio=placeholder(float),  # bottleneck: channels of the 3x3 convolution over the stage's
                groups=placeholder(int),  # bottleneck: groups of the 3x3 convolution, ResNeXt's cardinality
                # How shortcuts change the shape: "conv", a 1x1 convolution; "avg_pool", average pooling before it, as
                # in ResNet-D; or "pad", with zeros for new channels and without parameters.
                shortcut=placeholder(str),
                activation=placeholder(str),  # "relu" or "gelu"
                stem_dropout=placeholder(float),  # dropout rate after the stem
                block_dropout=placeholder(float),  # dropout rate within every block
                drop_path=placeholder(float),  # stochastic depth: rate of the last block, reached linearly
                se=placeholder(bool),  # squeeze-and-excitation in every block
                final_norm=placeholder(bool),  # preact: BatchNorm and activation after the last block
                kernel_init="torch",  # uniform, PyTorch's default; or "he_normal", or "dirac", the identity
                zero_last_scale=False,  # start the last BatchNorm of every block with scale 0 (zero-gamma)
                compute_dtype="auto",  # of convolutions: "float32", "bfloat16"; "auto": bfloat16 on GPU and TPU
                max_params=0,  # refuse a network with more parameters; 0 for no limit
            ),
            optimizer=dict(
                name="sgd",  # "sgd", "muon", "adam", "adamw" or "adagrad"
                learning_rate=0.1,  # peak of the schedule
                bias_lr_factor=1.0,  # factor on the learning rate of all biases, including BatchNorm's
                weight_decay=0.0,  # decoupled for adamw, otherwise added to the gradient
                decay_all=True,  # False: no decay of biases and of BatchNorm's scales
                clip_norm=0.0,  # largest global norm of the gradient; 0 for no clipping
                momentum=0.9,  # sgd, muon
                nesterov=False,  # sgd, muon: Nesterov's momentum
                dampening=0.0,  # sgd, muon: the momentum adds the gradient times 1 - dampening
                b1=0.9,  # adam, adamw: decay of the mean of the gradients
                b2=0.999,  # adam, adamw: decay of the mean of their squares
                eps=1e-8,  # adam, adamw, adagrad: added to the denominator
            ),
            schedule=dict(
                name="constant",  # or "multistep", "step_decay", "cosine", "warmup_cosine", "onecycle"
                per="epoch",  # update the learning rate every "epoch" or every "step"
                milestones=(),  # multistep: the epochs at which the learning rate is multiplied by factor
                factor=0.1,  # multistep, step_decay
                every=30,  # step_decay: epochs between two multiplications by factor
                end_factor=0.0,  # cosine, warmup_cosine: last learning rate as a fraction of the peak
                warmup=5,  # warmup_cosine: epochs of linear warm-up
                warmup_offset=1,  # warmup_cosine: at time t the warm-up has reached (t + offset) / warmup
                decay=0,  # warmup_cosine: epochs of the cosine; 0: until the end of training
                rise=0.3,  # onecycle: fraction of the training before the peak
                anneal="cosine",  # onecycle: the shape of the rise and the fall, "cosine" or "linear"
                three_phase=False,  # onecycle: fall as long as the rise, then on to the end
                start_divisor=25.0,  # onecycle: peak over first learning rate
                end_divisor=1e4,  # onecycle: first over last learning rate
                cycle_momentum=True,  # onecycle: momentum from max to min and back, opposite to the learning rate
                min_momentum=0.85,  # onecycle
                max_momentum=0.95,  # onecycle
            ),
            train=dict(
                # Trained weights to start from: the name of a pretrained network, a workdir, or a file of weights; ""
                # for new weights. The head is new if the classes differ.
                init_from="",
                freeze=(),  # parts of the network that are not trained, such as ("stem", "stage1")
                epochs=10,
                batch_size=128,  # over all devices
                label_smoothing=0.0,  # share of the target that is spread evenly over the classes
                mixup=0.0,  # alpha of MixUp, whose shares are Beta(alpha, alpha); 0 for none
                cutmix=0.0,  # alpha of CutMix; 0 for none
                ricap=0.0,  # beta of RICAP, whose boundaries between four images are Beta(beta, beta); 0 for none
                mix_probability=1.0,  # probability that a batch is mixed, if mixup, cutmix or ricap is on
                mix_switch=0.5,  # if mixup and cutmix are on: probability that a mixed batch is mixed by CutMix
                teacher="",  # learn from these networks: workdirs, weights or pretrained names, separated by commas
                teacher_weight=0.9,  # share of the loss that compares with the teacher; the rest is for the labels
                teacher_temperature=4.0,  # divides the logits of both networks in that comparison
                small_share=0.0,  # progressive resizing: share of the steps, at the start, on smaller images
                small_size=24,  # pixels, height and width of these images
                sam_radius=0.0,  # sharpness-aware minimisation (SAM): distance to its second gradient; 0 for none
                ema_decay=0.0,  # evaluate an exponential moving average of the weights, with this decay; 0 for none
                checkpoint_every=1,  # epochs
                monitor="val_accuracy",  # what selects the best epoch: "val_accuracy" or "val_loss"
                patience=0,  # stop after this many epochs without improvement; 0 never stops early
                min_delta=0.0,  # patience counts only larger changes of monitor as improvement
            ),
        )
    )


TRAININGS = ("report", "fast")  # how to train a network: as in its report, or `fast`


def recipe(network: str, arg: str, *choices: tuple[str, ...]) -> tuple[ConfigDict, tuple[str, ...]]:
    """Return the config from which a recipe for `network` on CIFAR-10 starts, and the words chosen in `arg`.

    `arg` is the ARG of --config=FILE:ARG: words separated by commas. "full" and "fast" train on all examples without
    validation. Each of `choices` is a tuple of words, of which `arg` may contain one; by default the first is chosen.
    Raises UserError for any other word.
    """
    words = [word for word in arg.split(",") if word]
    known = {word: index for index, options in enumerate(choices) for word in options} | {"full": len(choices)}
    kinds = [lookup("config argument", word, known) for word in words]
    if len(set(kinds)) < len(kinds):
        raise UserError(f"config argument {arg!r} names two alternatives: choose one")
    config = get_config()
    config.model.name = network
    config.model.max_params = 5_000_000
    config.data.name = "cifar10"
    if "full" in words or "fast" in words:
        config.data.train, config.data.validation = "train", ""
    return config, tuple(next((word for word in words if word in options), options[0]) for options in choices)


def fast(config: ConfigDict) -> ConfigDict:
    """Make the training of `config` short, whatever its network: Muon, and one cycle of the learning rate.

    Returns `config`.
    """
    config.data.policy = "crop(2,reflect)|flip(alternating)|normalize(cifar10)"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 0.03
    config.optimizer.nesterov = True
    config.optimizer.bias_lr_factor = 4.0
    config.schedule.name = "onecycle"
    config.schedule.per = "step"
    config.schedule.anneal = "linear"
    config.schedule.rise = 0.2
    config.schedule.start_divisor = 5.0
    config.schedule.end_divisor = 1e3
    config.schedule.cycle_momentum = False
    config.train.epochs = 10
    config.train.batch_size = 250
    config.train.label_smoothing = 0.1
    return config


def speed_recipe(network: str, arg: str, epochs: int) -> ConfigDict:
    """Return the config that the recipes for speed share: `fast` for large batches, one checkpoint at the end."""
    config = fast(recipe(network, arg)[0])
    config.model.kernel_init = "dirac"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.85
    config.optimizer.bias_lr_factor = 32.0
    config.schedule.rise = 0.05
    config.train.batch_size = 1000
    config.train.epochs = config.train.checkpoint_every = epochs
    config.train.label_smoothing = 0.2
    return config


@cache
def field_types() -> dict[str, tuple[type, bool]]:
    """Return the type of each field, and whether it may be None until the network or the dataset fills it in."""
    config = get_config()
    return {field: (type_of(config, field), value is None) for field, value in flatten(config.to_dict()).items()}


def type_of(config: ConfigDict, field: str) -> type:
    section, _, name = field.rpartition(".")
    return (config[section] if section else config).get_type(name)


def changed(config: FrozenConfigDict, fields: Mapping[str, Any]) -> FrozenConfigDict:
    """Return `config` with new values of `fields`, named like "data.dir".

    A ConfigDict made from a frozen one shares its fields with the ConfigDict that was frozen; this is a copy.
    """
    copy = ConfigDict(config.to_dict())
    copy.update_from_flattened_dict(dict(fields))
    return FrozenConfigDict(copy)


def flatten(nested: dict, prefix: str = "") -> dict[str, Any]:
    """Return {"a.b": 1} for {"a": {"b": 1}}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        nests = isinstance(value, dict) and value
        flat |= flatten(value, f"{prefix}{key}.") if nests else {f"{prefix}{key}": value}
    return flat
