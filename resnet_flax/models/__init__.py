"""Models: the networks by name, and the module that a config describes. Imports no other subpackage."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from resnet_flax.errors import UserError
from resnet_flax.models import whitening
from resnet_flax.models.resnet import ResNet


def cifar_resnet(depth: int) -> dict:
    """Return the fields of He et al.'s ResNet for CIFAR-10 (2015, section 4.2), whose shortcuts have no parameters."""
    return dict(blocks=((depth - 2) // 6,) * 3, widths=(16, 32, 64), shortcut="pad")


def wide_resnet(depth: int, factor: int) -> dict:
    """Return the fields of WRN-depth-factor, Zagoruyko & Komodakis (2016)."""
    return dict(
        block="preact",
        blocks=((depth - 4) // 6,) * 3,
        stem_width=16,
        widths=(16 * factor, 32 * factor, 64 * factor),
        final_norm=True,
    )


# The networks of the reports, two for fast training, the tiny one of the default config, and networks from the
# literature for comparison. A new network takes one line here.
NETWORKS: dict[str, dict] = {
    "resnet_443": dict(blocks=(4, 4, 3), widths=(64, 128, 256)),
    "resnet_2322": dict(blocks=(2, 3, 2, 2), widths=(64, 128, 192, 256), stem_dropout=0.2, block_dropout=0.2),
    "preact": dict(blocks=(2, 2, 2, 2), widths=(32, 64, 128, 256), block="preact"),
    "resnet18_w42": dict(blocks=(2, 2, 2, 2), widths=(42, 84, 168, 336), block_dropout=0.15),
    "resnet_large": dict(blocks=(1, 1, 1, 1), widths=(64, 128, 256, 512)),
    "resnet_353": dict(blocks=(3, 5, 3), widths=(64, 128, 256)),
    "speed94": dict(stem="whitening", block="pool", blocks=(1, 1, 1), widths=(64, 192, 256), activation="gelu"),
    "speed96": dict(stem="whitening", block="pool", blocks=(1, 1, 1), widths=(128, 256, 352), activation="gelu"),
    "resnet18": dict(blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512)),
    "preact_resnet18": dict(blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512), block="preact"),
    "tiny": dict(blocks=(1, 1, 1), widths=(16, 32, 64)),
    "resnet20": cifar_resnet(20),
    "resnet32": cifar_resnet(32),
    "resnet44": cifar_resnet(44),
    "resnet56": cifar_resnet(56),
    "resnet110": cifar_resnet(110),
    "resnet20_w64": dict(blocks=(3, 3, 3), widths=(64, 128, 256)),
    "wrn_16_4": wide_resnet(16, 4),
    "wrn_28_2": wide_resnet(28, 2),
    "wrn_40_2": wide_resnet(40, 2),
    "resnet50": dict(block="bottleneck", blocks=(3, 4, 6, 3), stem_width=64, widths=(256, 512, 1024, 2048)),
    "resnext29_32x4d": dict(
        block="bottleneck",
        blocks=(3, 3, 3),
        stem_width=64,
        widths=(256, 512, 1024),
        bottleneck_ratio=0.5,
        groups=32,
    ),
}

# The fields of ResNet that define a network; a config may override them.
ARCHITECTURE = (
    *("stem", "stem_width", "block", "blocks", "widths", "bottleneck_ratio", "groups", "shortcut", "activation"),
    *("stem_dropout", "block_dropout", "drop_path", "se", "final_norm"),
)


def architecture(name: str) -> dict:
    """Return all fields of ARCHITECTURE for the network `name` of NETWORKS: its own, or else ResNet's defaults."""
    return {field: getattr(ResNet, field, None) for field in ARCHITECTURE} | NETWORKS[name]


def compute_dtype(setting: str) -> jnp.dtype:
    """Return the dtype of the convolutions: `setting`; for "auto", bfloat16 on GPU and TPU and float32 on CPU."""
    if setting == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(setting)


def build(config: ConfigDict, axis_name: str | None = None) -> ResNet:
    """Return the module that `model` of a complete config describes, with one output per class in `data.classes`.

    BatchNorm averages over the mapped axis `axis_name`, if there is one. `resnet_flax.create` builds a network by name.
    """
    if not isinstance(config, ConfigDict) or "model" not in config or config.model.get("blocks") is None:
        given = type(config).__name__ if isinstance(config, ConfigDict) else repr(config)
        raise UserError(
            f"build takes a complete config, as returned by resnet_flax.config.checks.complete, not {given}: "
            "resnet_flax.create builds a network by name"
        )
    model = config.model
    return ResNet(
        **{field: model[field] for field in ARCHITECTURE},
        kernel_init=model.kernel_init,
        zero_last_scale=model.zero_last_scale,
        num_classes=len(config.data.classes),
        dtype=compute_dtype(model.compute_dtype),
        axis_name=axis_name,
        frozen=config.train.freeze,
    )


def statistics(module: ResNet, images: np.ndarray, normalize: Callable[[jax.Array], jax.Array]) -> dict:
    """Return the `batch_stats` of `module`, by layer, that are computed from the training images before training.

    `images` are (n, H, W, C) uint8; `normalize` returns them as the network sees them.
    """
    if module.stem != "whitening":
        return {}
    return {"stem_whitening": {"kernel": whitening.directions(images, normalize)}}


def variable_shapes(module: ResNet, image_shape: tuple[int, int, int]) -> dict:
    """Return the params and batch_stats of `module` as shapes and dtypes, for images (height, width, 3)."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(partial(module.init, train=False), jax.random.key(0), images)


def count_parameters(module: ResNet, image_shape: tuple[int, int, int]) -> int:
    """Return the number of trainable parameters of `module`, from shapes alone."""
    return sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(module, image_shape)["params"]))


def count_within_budget(module: ResNet, model: ConfigDict, image_shape: tuple[int, int, int]) -> int:
    """Return the number of parameters. Raises UserError if it exceeds `config.model.max_params`."""
    count = count_parameters(module, image_shape)
    if model.max_params and count > model.max_params:
        raise UserError(
            f"model {model.name!r} has {count:,} parameters, more than config.model.max_params "
            f"{model.max_params:,}; 0 means no limit"
        )
    return count
