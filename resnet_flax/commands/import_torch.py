"""Start a run from PyTorch weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from resnet_flax.config.checks import resolve_normalization
from resnet_flax.errors import UserError, nearest_file
from resnet_flax.models.weight_files import READERS, read_weights
from resnet_flax.optim import optimizers
from resnet_flax.text import print_line
from resnet_flax.training.initial import digest
from resnet_flax.training.restore import checkpoint_template, fit_weights
from resnet_flax.training.step import TrainState
from resnet_flax.workdir.checkpoints import Checkpoint, Checkpoints
from resnet_flax.workdir.folder import check_config, lock_workdir
from resnet_flax.workdir.identity import identity
from resnet_flax.workdir.trained import display_name


def import_torch(config: FrozenConfigDict, workdir: Path, file: str, key: str = "") -> None:
    """Make `workdir` a run of `config` that starts from the weights in `file`, see weight_files.read_weights.

    The run records the file and its checksum, as training.initial does for config.train.init_from. Raises UserError for
    a file that does not fit the config's network, and for a workdir that already holds a run.
    """
    path = Path(file)
    if not path.is_file():
        hint = nearest_file(path, READERS)
        raise UserError(f"there is no file {file!r}{hint}" if file else "which weights? Give --file=PATH")
    tensors = read_weights(path, key)
    variables = fit_weights(config, tensors, path)
    tree = checkpoint_template(config)
    with lock_workdir(workdir), Checkpoints(workdir / "checkpoints") as checkpoints:
        if checkpoints.steps():  # before anything of that run is changed
            raise UserError(f"{workdir} already holds a run: choose another --workdir")
        config = resolve_normalization(config)
        check_config(workdir, config)
        params = jax.tree.map(jnp.asarray, variables["params"])
        averaged = config.train.ema_decay > 0
        state = TrainState.start(params, variables["batch_stats"], optimizers.build(config.optimizer), averaged)
        state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, tree["state"]))
        init = {"weights": display_name(path), "sha256": digest(tensors)}
        run = identity(config, data={}, teacher={}) | {"seconds": 0.0, "init": init}  # the data need not be here yet
        checkpoints.save(Checkpoint(0, tree | {"state": state}, [], run))
    print_line(f"{len(jax.tree.leaves(variables))} tensors of {file} imported into {workdir}")
