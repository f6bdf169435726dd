"""The Python API, `import resnet_flax as rf`: networks by name, trained networks, and training. See docs/python.md."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict
from PIL import Image

from resnet_flax import models
from resnet_flax.cache import keep_compiled_programs
from resnet_flax.command_line import read_workdir
from resnet_flax.commands.train import train as train_and_report
from resnet_flax.config.checks import complete, set_fields
from resnet_flax.config.defaults import field_types, get_config
from resnet_flax.config.recipes import default_run_name, load_recipe, recipe_names
from resnet_flax.data.augment.policy import Policy
from resnet_flax.data.datasets.images import Images, list_image_files, upright
from resnet_flax.data.datasets.load import image_shape, load_split
from resnet_flax.errors import UserError, reason
from resnet_flax.memory import keep_freed_memory
from resnet_flax.models.resnet import ResNet, Variables
from resnet_flax.text import escape_line, short_repr
from resnet_flax.training.classifier import Classifier, batch_size, check_images
from resnet_flax.training.restore import restore_checkpoint
from resnet_flax.training.step import eval_step, feature_step
from resnet_flax.training.trackers import Tracker
from resnet_flax.workdir.predictions import Predictions
from resnet_flax.workdir.trained import find_trained, pretrained_names, read_trained_config, read_trained_results

PathLike = str | os.PathLike
ImageLike = PathLike | Image.Image


class Network:
    """A trained network, as returned by `load` and `train`.

    Attributes:
        model: the Flax module; `model.apply(variables, normalize(images), train=False)` returns logits.
        variables: its `params` and `batch_stats`, averaged over training if the run keeps an average.
        classes: the names of the classes, in the order of the labels.
        config: the complete config of its run.
        results: of the finished run and its best epoch, such as `test_accuracy`; {} before its end, and for a file of
            weights without a results.json beside it.

    "Images" below are a uint8 array (n, H, W, 3) of values 0 to 255, with H and W as in training, or a path, a PIL
    image, or a list of these. Paths name image files, folders of them, .npy, .npz and pickles. Images from paths and
    PIL images are resized and converted to RGB as by the verb `predict`; arrays never are. All methods that take images
    raise UserError for an array of another shape or dtype, and for a file or PIL image that cannot be read.
    """

    def __init__(self, config: FrozenConfigDict, variables: Variables, results: Mapping[str, Any]):
        self.model: ResNet = models.build(config)
        self.variables = variables
        self.classes: tuple[str, ...] = tuple(config.data.classes)
        self.config = config
        self.results = results
        self._classifier = cache(partial(Classifier, config))

    def predict(self, images: np.ndarray | ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Return the probability of each class, (n, classes) float32, for n images."""
        return np.exp(self._compute(eval_step, images))

    def features(self, images: np.ndarray | ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Return the pooled features before the last layer, (n, channels) float32, for n images."""
        return self._compute(feature_step, images)

    def evaluate(self, split: str = "test") -> Predictions:
        """Return the predictions for a split: its `accuracy`, from 0 to 1, `loss` in nats, `probabilities`, `labels`.

        `split` is "test", "validation", "train", or a part of a split such as "train[:500]". Raises UserError if the
        dataset is missing, or has no such split.
        """
        check_type("split", split, str)
        _, examples = load_split(self.config.data, split)
        return self._classifier(batch_size(len(examples)), eval_step).evaluate(self.variables, examples)

    def normalize(self, images: np.ndarray | jax.Array) -> jax.Array:
        """Return uint8 images (n, H, W, 3) in the form that `model` takes: float32, normalised as in training."""
        check_type("images", images, np.ndarray | jax.Array)
        pixels = jnp.asarray(images)
        check_images(pixels, image_shape(self.config.data))
        return Policy(self.config.data.policy).normalize(jnp, pixels)

    def _compute(self, step: Any, images: Any) -> np.ndarray:
        pixels = read_images(images, image_shape(self.config.data))
        return self._classifier(batch_size(len(pixels)), step)(self.variables, pixels)

    def __repr__(self) -> str:
        return f"<Network {self.config.model.name}, {len(self.classes)} classes>"


def list_networks() -> list[str]:
    """Return the names that `create` takes."""
    return list(models.NETWORKS)


def list_recipes() -> list[str]:
    """Return the names of the recipes that `train` takes."""
    return recipe_names()


def list_pretrained() -> list[str]:
    """Return the names of the trained networks in the package, the most accurate first."""
    return pretrained_names()


def create(name: str, num_classes: int = 10, **fields: Any) -> ResNet:
    """Return an untrained network: a Flax Linen module with one output for each class.

    `fields` override parts of it, such as blocks, widths, block, shortcut, se or drop_path: all fields under `model` in
    config/defaults.py. Its `init` and `apply` take normalised float images (n, H, W, 3) and `train`, and `apply`
    returns logits (n, num_classes) float32. Raises UserError for an unknown name, an unknown field or a wrong value.
    """
    if not isinstance(num_classes, int | np.integer) or isinstance(num_classes, bool) or num_classes < 1:
        raise UserError(f"num_classes must be a positive whole number, not {short_repr(num_classes)}")
    config = get_config()
    set_fields(config, {"model.name": name} | {f"model.{field}": value for field, value in fields.items()})
    model = models.build(complete(config)).clone(num_classes=int(num_classes))
    if config.model.max_params:
        models.count_within_budget(model, config.model, image_shape(config.data))
    return model


def load(name: PathLike, checkpoint: str | int = "best") -> Network:
    """Return a trained network: a pretrained one, that of a run, or one from weights written by the verb `export`.

    `name` is a name of `list_pretrained`; or the path of a workdir, whose `checkpoint` is used: "best" on validation
    (the newest if nothing is held out), "newest", or the number of its step; or a file of weights, or its folder. A
    .safetensors of `export` says what network it is for; other files need the config.json of their run beside them. A
    Path, or a str with a separator such as "./preact", is always a path; "pretrained:preact" never is. "hf:OWNER/NAME"
    is a folder of `export --format=hub` on the Hugging Face Hub, which is downloaded. Nothing in any of these files is
    executed.

    Raises UserError if there is none of these, if it is damaged or does not match its checksum, for weights that do not
    fit their network, and for a name that is also that of a network in the current folder.
    """
    check_type("name", name, PathLike)
    path = find_trained(name)
    config = complete(read_trained_config(path))
    variables = restore_checkpoint(config, path, str(checkpoint)).tree["state"].variables
    return Network(config, variables, read_trained_results(path))


def train(
    recipe: str,
    fields: Mapping[str, Any] | None = None,
    *,
    workdir: PathLike = "",
    track: str | Tracker = "",
    **keywords: Any,
) -> Network:
    """Train a recipe and write its report, as the verb `train` does, and return the network of its best epoch.

    `recipe` is a name of `list_recipes` or the path of a file, either perhaps with :ARGUMENT. Keywords set the fields
    of its config by the last part of their names, such as `epochs=5`; `fields` sets them by their whole names, such as
    {"optimizer.name": "sgd"}, where the last part is not enough. `workdir` is runs/NAME or runs/NAME-ARGUMENT by
    default. The same call resumes a run that was stopped, and returns the network of one that is finished. `track` is
    "wandb", "mlflow" or both, separated by a comma, or an object of your own with the methods of a
    training.trackers.Tracker.

    Raises UserError for mistakes, before anything is compiled; NotFinite, a UserError, if the loss diverges; and
    Interrupted after Ctrl-C, once the run is saved. In a thread other than the main one no signal stops it.
    """
    check_type("recipe", recipe, str)
    check_type("fields", fields or {}, Mapping)
    for name in fields or {}:
        check_type("the name of a field", name, str)
    check_type("workdir", workdir, PathLike)
    keep_compiled_programs()
    keep_freed_memory()
    config = load_recipe(recipe)
    named = {full_name(name): value for name, value in keywords.items()}
    if twice := named.keys() & set(fields or {}):
        raise UserError(f"config.{min(twice)} is given twice, as a keyword and in the dict of fields: leave one out")
    set_fields(config, named | dict(fields or {}))
    folder = read_workdir(os.fspath(workdir) or f"runs/{default_run_name(recipe)}", "workdir")
    train_and_report(complete(config), folder, seeds="", track=track)
    return load(folder)


def check_type(name: str, value: Any, kind: Any) -> None:
    """Raise UserError if an argument is not of a `kind`, a type or a union of types."""
    if not isinstance(value, kind):
        wanted = " or ".join(one.__name__.rpartition(".")[2] for one in getattr(kind, "__args__", [kind]))
        raise UserError(f"{name} must be {wanted}, not {short_repr(value)}")


def full_name(keyword: str) -> str:
    """Return the only field whose name ends in `keyword`, or else `keyword` itself, which is then no field's name."""
    found = [field for field in field_types() if field.rpartition(".")[2] == keyword]
    return found[0] if len(found) == 1 else keyword


def read_images(images: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Return images as an array (n, *shape) uint8, see Network."""
    several = [images] if isinstance(images, ImageLike) else images
    if isinstance(several, Sequence) and any(isinstance(one, ImageLike) for one in several):
        return np.stack([pixels for one in several for pixels in read_one(one, shape[:2])])
    try:
        array = np.asarray(images)
    except ValueError:
        raise UserError("the arrays in a list of images must have the same shape") from None
    check_images(array, shape)
    return array


def read_one(image: Any, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the images that a path names, or a PIL image, as arrays (height, width, 3) uint8 of `size`.

    Raises UserError for what cannot be read.
    """
    if isinstance(image, Image.Image):
        try:
            pixels = Images([], size).fit("", upright(image), image.size)
        except Exception as error:  # it may be decoded only now, and decoders raise nearly anything
            name = escape_line(getattr(image, "filename", "")) or "the PIL image"
            raise UserError(f"cannot read {name}: {escape_line(reason(error), 200)}") from None
        yield pixels
        return
    if not isinstance(image, PathLike):
        raise UserError(f"an image in a list with paths or PIL images must be one of these, not {type(image).__name__}")
    found = Images(list_image_files([os.fspath(image)]), size)
    yield from (one.pixels for one in found)
    for name, why in found.unreadable.items():
        raise UserError(f"cannot read {escape_line(name)}: {why}")
