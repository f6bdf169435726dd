"""Checkpoints: which are kept, that they are exact, and what happens to a damaged one."""

import json
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from resnet_flax.workdir.checkpoints import Checkpoint, Checkpoints, checksum, recorded_run


class State(NamedTuple):
    step: jax.Array
    weights: jax.Array


# Large and random enough that most of what is on disk is the values themselves, uncompressed.
TREE = {"state": State(jnp.array(0), jax.random.normal(jax.random.key(0), (64, 64)))}
RUN = {"config": {"seed": 0}, "data": {"train": {"examples": 5}}, "seconds": 0.1 + 0.2}


def at(step: int, **row) -> Checkpoint:
    tree = jax.tree.map(lambda leaf: leaf + step, TREE)
    trained = {"learning_rate": 0.1, "train_loss": 1.5, "train_accuracy": 0.25}
    return Checkpoint(step, tree, [{"epoch": 1, "step": step, **trained, "val_accuracy": 0.1 + 0.2, **row}], RUN)


def fill(folder, *saves: tuple[int, list[int]]) -> None:
    with Checkpoints(folder) as checkpoints:
        for step, best in saves:
            checkpoints.save(at(step), best)


def test_two_newest_and_best_are_kept(tmp_path):
    fill(tmp_path, (1, [1]), (2, [2]), (3, [2]), (4, [2]), (5, [2]))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [5, 4, 2]
    fill(tmp_path, (6, []))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [6, 5]


def test_round_trip_is_exact(tmp_path):
    fill(tmp_path, (3, []))
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_newest(TREE)
    assert restored.step == 3
    assert (restored.history, restored.run) == (at(3).history, RUN)
    assert checksum(restored) == checksum(at(3))


def test_empty_folder_is_a_fresh_start(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_newest(TREE) is None


def test_flipped_bit_is_noticed_by_the_checksum(tmp_path, capsys):
    """In the largest file of arrays, which Orbax restores without an error. Other damage: tests/faults."""
    fill(tmp_path, (3, [3]), (7, [3]))
    path = max((tmp_path / "7").glob("tree/**/d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_newest(TREE)
        assert restored.step == 3
        np.testing.assert_array_equal(restored.tree["state"].weights, TREE["state"].weights + 3)
        assert "checkpoint 7 is damaged and is skipped: its content does not match" in capsys.readouterr().out
        checkpoints.save(at(7), [3])  # the place of the damaged one can be written again
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_newest(TREE).step == 7


def test_longer_history_is_written_beside_the_arrays_that_are_already_there(tmp_path):
    """As by a run that was stopped in the evaluation at the end of an epoch, and then resumed."""
    fill(tmp_path, (3, []))
    grown = at(3)
    grown.history += [grown.history[0] | {"epoch": 2, "step": 6}]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(grown)
        assert checkpoints.restore_newest(TREE).history == grown.history


def test_checkpoint_copied_under_another_number_is_not_restored_as_that_step(tmp_path, capsys):
    """Neither as a later step nor in place of the best one; this holds for checkpoints of older versions too."""
    fill(tmp_path, (3, [3]), (7, [3]))
    shutil.copytree(tmp_path / "3", tmp_path / "9")
    change_record(tmp_path / "9", run=None, run_checksum=None)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_newest(TREE).step == 7
    assert "checkpoint 9 is damaged and is skipped: it is a copy of checkpoint 3" in capsys.readouterr().out
    assert (tmp_path / "9.damaged").is_dir()


def change_record(checkpoint, **fields) -> None:
    """Replace fields of a checkpoint's record; None takes one away."""
    path = checkpoint / "record" / "metadata"
    record = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in record.items() if value is not None}))


def test_what_a_run_was_is_read_from_the_newest_intact_record(tmp_path):
    assert recorded_run(tmp_path / "none") == {}
    fill(tmp_path, (3, [3]), (7, [3]))
    change_record(tmp_path / "7", run=RUN | {"seconds": 1e9})  # no longer what its checksum says
    assert recorded_run(tmp_path) == RUN
    for step in ("3", "7"):
        change_record(tmp_path / step, run=None, run_checksum=None)  # as an older version wrote it
    assert recorded_run(tmp_path) == {}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_newest(TREE).run == {}
