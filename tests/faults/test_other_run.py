"""A run resumes with its own data and its own config only; otherwise it is refused before anything is touched."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.faults.injection import STEPS, at_step, end, run, send
from benchmarks.faults.kinds import draw_photos
from resnet_flax.main import main
from resnet_flax.workdir.checkpoints import json_checksum

PHOTOS = [
    f"--config={Path(__file__).parents[2]}/configs/folder.py",
    "--config.data.image_size=8",
    "--config.data.policy=flip|normalize(auto)",
    "--config.model.blocks=(1,)",
    "--config.model.widths=(4,)",
    "--config.train.epochs=3",
    "--config.train.batch_size=8",
]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(photos, a run on them that was stopped in its second epoch)."""
    folder = tmp_path_factory.mktemp("stopped")
    draw_photos(folder / "photos", range(30))
    with at_step(7, send(15)):
        assert main([*PHOTOS, f"--config.data.dir={folder / 'photos'}", f"--workdir={folder / 'run'}"]) == 143
    return folder / "photos", folder / "run"


HELD_OUT = (("validation", 6), ("test", 6))
CHANGES = {
    "added": (
        lambda photos: draw_photos(photos, range(30, 40)),
        "train had 48 examples and has 64; validation had 6 examples and has 8; test had 6 examples and has 8",
    ),
    "removed": (
        lambda photos: [(photos / name / "7.png").unlink() for name in ("cat", "dog")],
        "train had 48 examples and has 46; validation has 6 examples of other data; test has 6 examples of other data",
    ),
    "replaced": (
        lambda photos: draw_photos(photos, range(7, 8), seed=1),
        "; ".join(f"{role} has {count} examples of other data" for role, count in (("train", 48), *HELD_OUT)),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_run_whose_images_changed_is_refused_and_left_alone(change, stopped, undrawn, tmp_path, capsys):
    photos, workdir = stopped
    command = [*PHOTOS, f"--config.data.dir={photos}", f"--workdir={workdir}"]
    shutil.copytree(photos, tmp_path / "backup")
    before = content(workdir)
    make, message = CHANGES[change]
    make(photos)
    try:
        for _ in range(2):
            assert main(command) == 1
            error = capsys.readouterr().err
            assert error == (
                f"error: {workdir} holds a different run ({message}): undo the change, or choose another --workdir\n"
            )
            assert content(workdir) == before
    finally:
        shutil.rmtree(photos)
        shutil.copytree(tmp_path / "backup", photos)
    shutil.copytree(workdir, tmp_path / "run")
    assert main([*command[:-1], f"--workdir={tmp_path / 'run'}"]) == 0
    assert "resuming at step 8 (1 of 3 epochs finished)" in capsys.readouterr().out


def content(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder but its lock."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_run_resumes_on_the_same_images_in_another_folder(stopped, undrawn, tmp_path, capsys):
    photos, workdir = tmp_path / "moved", tmp_path / "run"
    shutil.copytree(stopped[0], photos)
    shutil.copytree(stopped[1], workdir)
    words = [*PHOTOS, f"--config.data.dir={photos}", "--config.train.checkpoint_every=2", f"--workdir={workdir}"]
    assert main(words) == 0
    assert "resuming at step 8 (1 of 3 epochs finished)" in capsys.readouterr().out
    assert json.loads((workdir / "config.json").read_text())["data"]["dir"] == str(photos)
    assert main(["evaluate", f"--workdir={workdir}"]) == 0


def test_finished_run_is_not_passed_off_as_one_on_other_images(stopped, undrawn, tmp_path, capsys):
    photos = tmp_path / "photos"
    shutil.copytree(stopped[0], photos)
    command = [*PHOTOS, f"--config.data.dir={photos}", f"--workdir={tmp_path / 'run'}"]
    assert main(command) == 0
    assert main(command) == 0
    assert "is finished" in capsys.readouterr().out
    draw_photos(photos, range(30, 40))
    assert main(command) == 1
    assert "train had 48 examples and has 64" in capsys.readouterr().err


@pytest.fixture
def workdir(tmp_path):
    """A run that was stopped in its second epoch."""
    with at_step(STEPS + 2, send(15)):
        assert run(tmp_path) == 143
    return tmp_path


LEARNING_RATE = "config.optimizer.learning_rate: 0.1 -> 0.05"


def test_lost_config_is_not_replaced_by_another(workdir, undisturbed, capsys):
    (workdir / "config.json").unlink()
    before = content(workdir)
    assert run(workdir, "--config.optimizer.learning_rate=0.05") == 1
    assert f"holds a different run ({LEARNING_RATE}): undo the change" in capsys.readouterr().err
    assert content(workdir) == before
    assert run(workdir) == 0
    assert (workdir / "config.json").read_bytes() == (undisturbed() / "config.json").read_bytes()
    assert end(workdir) == end(undisturbed())


def test_config_that_was_edited_in_the_workdir_is_refused(workdir, capsys):
    path = workdir / "config.json"
    config = json.loads(path.read_text())
    config["optimizer"]["learning_rate"] = 0.05
    path.write_text(json.dumps(config))
    assert main(["train", f"--workdir={workdir}"]) == 1
    assert f"holds a different run ({LEARNING_RATE}): undo the change" in capsys.readouterr().err


def test_damaged_record_is_damage_and_not_another_run(workdir, undisturbed, capsys):
    newest = max((path for path in (workdir / "checkpoints").iterdir()), key=lambda path: int(path.name))
    path = newest / "record" / "metadata"
    path.write_text(path.read_text().replace('"learning_rate": 0.1,', '"learning_rate": 0.2,'))
    assert run(workdir) == 0
    assert f"checkpoint {newest.name} is damaged and is skipped: its record does not match" in capsys.readouterr().out
    assert end(workdir) == end(undisturbed())


def test_fields_that_an_older_version_did_not_have_are_the_same_as_their_defaults(workdir, undisturbed):
    for path in (workdir / "checkpoints").glob("*/record/metadata"):
        record = json.loads(path.read_text())
        del record["run"]["config"]["train"]["label_smoothing"]
        del record["run"]["config"]["model"]["groups"]  # whose default depends on the network
        record["run_checksum"] = json_checksum(record["run"])
        path.write_text(json.dumps(record))
    assert run(workdir) == 0
    assert end(workdir) == end(undisturbed())
