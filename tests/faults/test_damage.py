"""Files of a run that are cut off, changed, missing or not its own: it resumes from the newest intact checkpoint."""

import contextlib
import json
import shutil

import pytest

from benchmarks.faults.injection import SMALL, STEPS, end, run
from resnet_flax.command_line import parse
from resnet_flax.main import main
from resnet_flax.training.restore import checkpoint_template
from resnet_flax.training.train import Loop
from resnet_flax.workdir.checkpoints import Checkpoints, checksum, steps_in
from resnet_flax.workdir.results import read_results


@pytest.fixture
def workdir(undisturbed, tmp_path):
    """A finished run without its results, with checkpoints of steps 24, the best, 16, and 8, the best until then."""
    shutil.copytree(undisturbed(), tmp_path, dirs_exist_ok=True)
    (tmp_path / "report" / "results.json").unlink()
    return tmp_path


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_a_bit_in_an_array(step):
    flip_a_bit(largest(step / "tree" / "d"))


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def replace_by_a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("")


DAMAGES = {
    "a truncated array": lambda step: truncate(largest(step / "tree" / "d")),
    "a flipped bit in an array": flip_a_bit_in_an_array,
    "a flipped bit in the history": lambda step: flip_a_bit(step / "record" / "metadata"),
    "a truncated history": lambda step: truncate(step / "record" / "metadata"),
    "no metadata of arrays": lambda step: (step / "tree" / "_METADATA").unlink(),
    "no metadata": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
    "no history": lambda step: shutil.rmtree(step / "record"),
    "an empty folder": empty,
    "a file": replace_by_a_file,
}
HARMLESS = ("no metadata",)  # Orbax can do without it


@pytest.fixture
def blank():
    """Return the tree into which checkpoints of the run are restored."""
    _, [(config, _)], _ = parse(SMALL)
    return checkpoint_template(config)


@pytest.mark.parametrize("name", DAMAGES)
def test_newest_intact_checkpoint_is_restored_with_a_message(name, workdir, blank, capsys):
    folder = workdir / "checkpoints"
    DAMAGES[name](folder / "24")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore_newest(blank).step == (24 if name in HARMLESS else 16)
    assert ("checkpoint 24 is damaged and is skipped: " in capsys.readouterr().out) == (name not in HARMLESS)
    assert sorted(path.name for path in folder.iterdir() if "24" in path.name) == [
        "24" if name in HARMLESS else "24.damaged"
    ]


def test_flipped_bit_in_any_file_restores_no_wrong_number(workdir, blank):
    folder = workdir / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        intact = checksum(checkpoints.restore(24, blank))
        unnoticed = []
        files = [path for path in (folder / "24").rglob("*") if path.is_file()]
        for path in files:
            content = path.read_bytes()
            flip_a_bit(path)
            with contextlib.suppress(Exception):
                unnoticed.append((path.name, checksum(checkpoints.restore(24, blank))))
            path.write_bytes(content)
    assert len(files) > 10
    assert 0 < len(unnoticed) < len(files)
    assert {found for _, found in unnoticed} == {intact}


def test_run_with_a_damaged_checkpoint_resumes_to_the_same_end(workdir, undisturbed, capsys):
    DAMAGES["a flipped bit in an array"](workdir / "checkpoints" / "24")
    assert run(workdir) == 0
    out = capsys.readouterr().out
    assert "checkpoint 24 is damaged and is skipped: " in out
    assert "resuming at step 16" in out
    assert end(workdir) == end(undisturbed())


def test_best_that_is_damaged_or_missing_is_reported_and_not_replaced_by_another(workdir, monkeypatch, capsys):
    monkeypatch.setattr("resnet_flax.training.train.best_row", lambda history, _: history[:2][-1])
    step = workdir / "checkpoints" / "16"
    for damage, problem in (
        (flip_a_bit_in_an_array, f"in {step.parent} is damaged: "),
        (shutil.rmtree, "is missing in"),
    ):
        damage(step)
        assert run(workdir) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: checkpoint 16 of the chosen epoch 2 {problem}")
        assert error.endswith("evaluate --checkpoint=newest scores the newest\n")
        assert error.count("\n") == 1
    assert not (workdir / "report" / "results.json").exists()


def test_run_without_an_intact_checkpoint_is_refused_and_left_alone(workdir, capsys):
    folder = workdir / "checkpoints"
    for step in folder.iterdir():
        truncate(largest(step / "tree" / "d"))
    before = sorted(folder.rglob("*"))
    for _ in range(2):
        assert run(workdir) == 1
        captured = capsys.readouterr()
        assert captured.out.count("is damaged and is skipped") == 3
        assert (
            captured.err
            == f"error: no checkpoint in {folder} is intact: choose another --workdir to start from scratch\n"
        )
        assert sorted(folder.rglob("*")) == before


def test_other_files_in_the_folder_are_left_alone(workdir, undisturbed, capsys):
    """Nor are they taken for the newest checkpoint, which would keep the run from saving its own."""
    folder = workdir / "checkpoints"
    shutil.rmtree(folder / "24")
    strays = [folder / name for name in ("notes", "0099", "-1", "24.damaged", "24.damaged1")]
    for stray in strays:
        stray.mkdir()
    (folder / "99999").mkdir()
    (folder / "notes.txt").write_text("mine")
    assert run(workdir) == 0
    assert "checkpoint 99999 is damaged and is skipped" in capsys.readouterr().out
    assert all(stray.is_dir() for stray in strays)
    assert end(workdir) == end(undisturbed())


@pytest.mark.parametrize("content", ["", "{", '{"test_accuracy": 0.1'])
def test_damaged_results_are_recreated(content, workdir, undisturbed, capsys):
    (workdir / "report" / "results.json").write_text(content)
    assert run(workdir) == 0
    assert "results.json is damaged" in capsys.readouterr().out
    assert end(workdir) == end(undisturbed())


def test_damaged_config_is_recreated_by_the_whole_command(workdir, undisturbed, capsys):
    path = workdir / "config.json"
    truncate(path)
    assert main(["train", f"--workdir={workdir}"]) == 1
    error = capsys.readouterr().err
    assert f"error: {path} is damaged" in error
    assert error.count("\n") == 1
    assert run(workdir) == 0
    assert f"{path} is damaged" in capsys.readouterr().out
    assert path.read_bytes() == (undisturbed() / "config.json").read_bytes()
    assert end(workdir) == end(undisturbed())


def test_a_run_is_extended_though_its_config_is_missing(undisturbed, tmp_path, capsys):
    longer = ["--config.train.patience=0", "--config.schedule.name=constant"]
    assert run(tmp_path, *longer, "--config.train.epochs=1") == 0
    (tmp_path / "config.json").unlink()
    assert run(tmp_path, *longer, "--config.train.epochs=2") == 0
    assert "is finished" not in capsys.readouterr().out
    assert read_results(tmp_path)["epochs"] == 2


def test_the_checkpoint_before_a_damaged_one_has_its_best_one(tmp_path, monkeypatch):
    """The third epoch is the best, but if its checkpoint is damaged, the run goes on with the first as its best."""
    accuracy = iter([0.5, 0.4, 0.6])
    monkeypatch.setattr(Loop, "validation_row", lambda loop, epoch: {"val_loss": 1.0, "val_accuracy": next(accuracy)})
    assert run(tmp_path, "--config.train.patience=0", "--config.train.epochs=3") == 0
    assert steps_in(tmp_path / "checkpoints") == [3 * STEPS, 2 * STEPS, STEPS]


@pytest.mark.parametrize("length", [5, 100, -30, -1])
def test_damaged_metrics_are_read_from_the_checkpoint_and_recreated(length, workdir, undisturbed, capsys):
    path = workdir / "metrics.csv"
    path.write_bytes(path.read_bytes()[:length])
    assert main(["report", f"{workdir}", f"{undisturbed()}", f"--output={workdir / 'both'}"]) == 0
    assert "metrics.csv is damaged" in capsys.readouterr().out
    assert run(workdir) == 0
    assert path.read_bytes() == (undisturbed() / "metrics.csv").read_bytes()


def test_results_without_a_report_are_drawn(undisturbed, tmp_path, capsys):
    """As of a run that is killed while it draws."""
    shutil.copytree(undisturbed(), tmp_path, dirs_exist_ok=True)
    assert main(["train", f"--workdir={tmp_path}"]) == 0
    assert (tmp_path / "report" / "report.html").exists()
    assert main(["train", f"--workdir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert out.count("is finished") == 2
    assert out.count("report: ") == 1


def test_damaged_predictions_are_reported(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed(), tmp_path, dirs_exist_ok=True)
    truncate(tmp_path / "report" / "predictions.npz")
    assert main(["report", f"--workdir={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert "predictions.npz is damaged" in error
    assert error.count("\n") == 1
    json.loads((tmp_path / "report" / "results.json").read_text())
