"""Checkpoints: which are kept, what a damaged one does, and that nothing changes on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_flax.checkpoint import Checkpoint, Checkpoints, checksum
from resnet_flax.errors import UserError

# Large and random enough that most of what is on disk is the values themselves, uncompressed.
TREE = {"weights": jax.random.normal(jax.random.key(0), (64, 64)), "step": jnp.array(0)}


def at(step: int, **row) -> Checkpoint:
    tree = jax.tree.map(lambda leaf: leaf + step, TREE)
    trained = {"learning_rate": 0.1, "train_loss": 1.5, "train_accuracy": 0.25}
    return Checkpoint(step, tree, [{"epoch": 1, "step": step, **trained, "val_accuracy": 0.1 + 0.2, **row}])


def fill(folder, *saves: tuple[int, int | None]) -> None:
    with Checkpoints(folder) as checkpoints:
        for step, best in saves:
            checkpoints.save(at(step), best)


def test_two_newest_and_best_are_kept(tmp_path):
    fill(tmp_path, (1, 1), (2, 2), (3, 2), (4, 2), (5, 2))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [5, 4, 2]
    fill(tmp_path, (6, None))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [6, 5]


def test_round_trip_is_exact(tmp_path):
    fill(tmp_path, (3, None))
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_newest(TREE)
    assert restored.step == 3
    assert restored.history == at(3).history
    assert checksum(restored) == checksum(at(3))


def test_none_at_all_is_a_fresh_start(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_newest(TREE) is None


def flip_a_byte(folder) -> None:
    """In the largest file of array data; Orbax restores such a file without a word."""
    path = max(folder.glob("tree/**/d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(folder) -> None:
    for path in folder.glob("tree/**/d/*"):
        path.write_bytes(path.read_bytes()[:10])


def empty(folder) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def lose_record(folder) -> None:
    (folder / "record" / "metadata").unlink()


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, empty, lose_record])
def test_damaged_checkpoint_is_skipped_aloud(tmp_path, damage, capsys):
    fill(tmp_path, (3, 3), (7, 3))
    damage(tmp_path / "7")
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_newest(TREE)
        assert restored.step == 3
        np.testing.assert_array_equal(restored.tree["weights"], TREE["weights"] + 3)
        out = capsys.readouterr().out
        assert "checkpoint 7 is damaged and is skipped" in out
        assert ("checksum" in out) == (damage is flip_a_byte)  # all else Orbax notices by itself
        checkpoints.save(at(7), 3)  # the place of the damaged one can be written again
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_newest(TREE).step == 7


def test_only_damaged_checkpoints_are_no_fresh_start(tmp_path):
    fill(tmp_path, (3, None))
    truncate(tmp_path / "3")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"no checkpoint in .* is sound"):
        checkpoints.restore_newest(TREE)
