"""Kinds of fault that happen to a small run, each with what must be true right after it; benchmarks/soak.py uses them.

A fault is a function (run, rng) of an unfinished run that returns whether it happened: some need a checkpoint, and a
run may be faster than its fault. It raises AssertionError if the run did not react as it should.
"""

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.faults import injection
from benchmarks.faults.injection import popen
from launch.local import free_port
from resnet_flax.files import read_json
from resnet_flax.workdir.history import read_csv
from resnet_flax.workdir.predictions import read_predictions

WAYS = {
    "tfdata": ["--config.data.feed=tfdata"],
    "device": ["--config.data.feed=device"],
    "pmap": ["--config.data.feed=device", "--config.parallel=pmap"],
}
PHOTOS = [
    "--config.data.name=folder",
    "--config.data.image_size=8",
    "--config.data.train_examples=0",
    "--config.data.train=train[:80%]",
    "--config.data.validation=train[80%:90%]",
    "--config.data.test=train[90%:]",
]
PAIRS = 160  # of photos, 80 % of which are 8 batches
EPOCHS = 60
TRIALS, TRIAL_EPOCHS = 8, 10  # of a sweep
MOMENTS = {"starting": 6.0, "training": 3.0, "saving": 0.05}  # doing what, and at most how many seconds later
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT, "SIGHUP": signal.SIGHUP}
STOP_SECONDS = 10  # within which a signal ends a run
ANY_MOMENT = 12  # seconds after the start, most often before a run has ended
PATIENCE = 300  # seconds after which a process counts as hanging


class Check:
    """check(holds, found) raises AssertionError about what was found if it does not hold, and counts the checks."""

    made = 0

    def __call__(self, holds: bool, found: object) -> None:
        self.made += 1
        if not holds:
            raise AssertionError(str(found))


check = Check()


class Run:
    """A run of a tiny network on the photos in `folder`, in its `workdir` there."""

    def __init__(self, folder: Path, name: str, way: str):
        self.folder, self.workdir, self.photos = folder, folder / name, folder / "photos"
        self.words = [*PHOTOS, *WAYS[way], f"--config.data.dir={self.photos}", "--config.train.patience=0"]
        self.words += [f"--config.train.epochs={EPOCHS}"]

    def command(self, *words: str) -> list[str]:
        return [sys.executable, *injection.PROGRAM, *injection.SMALL, *self.words, *words, f"--workdir={self.workdir}"]

    def start(self, *words: str) -> subprocess.Popen:
        return popen(self.command(*words))

    def is_finished(self) -> bool:
        return (self.workdir / "report" / "results.json").exists()

    def end(self) -> dict:
        """Let the run come to its end, and return all that must be the same at the end of two runs."""
        code, _, told = ended(self.start())
        check((code, told) == (0, ""), (code, told))
        left = [path for path in self.workdir.rglob("*") if re.search(r"^\..+\.tmp$|-tmp", path.name)]
        check(not left, f"left behind: {left}")
        found, about = read_predictions(self.workdir / "report" / "predictions.npz")
        predictions = (about, found.log_probabilities.tobytes(), found.labels.tobytes())
        return injection.end(self.workdir, *self.words) | {"predictions": predictions}

    def checkpoints(self) -> list[Path]:
        """Return the folders of all checkpoints, newest first."""
        folders = [path for path in (self.workdir / "checkpoints").glob("*") if path.name.isdigit()]
        return sorted(folders, key=lambda path: int(path.name), reverse=True)

    def content(self) -> dict[Path, bytes]:
        """Return every file of the workdir except its lock."""
        files = [path for path in self.workdir.rglob("*") if path.is_file() and path.name != ".lock"]
        return {path: path.read_bytes() for path in files}


def ended(process: subprocess.Popen, seconds: float = PATIENCE) -> tuple[int, str, str]:
    """Wait for a process, and return its exit code, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise AssertionError(f"still running after {seconds} seconds: {process.args}") from None
    return process.returncode, out, err


def draw_photos(folder: Path, numbers: range, seed: int = 0) -> None:
    """Draw a photo of each of two classes for each of `numbers`."""
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            pixels = np.random.default_rng((seed, label, number)).integers(0, 160 + 60 * label, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def interrupt(signum: int, doing: str, run: Run, rng: random.Random) -> bool:
    """Start the run and send it a signal."""
    wait = rng.uniform(0, MOMENTS[doing])
    code, seconds = injection.interrupt(run.workdir, signum, doing, wait, *run.words)
    check(seconds < STOP_SECONDS, f"took {seconds:.1f} seconds to end")
    return code != 0


def flip_a_bit(run: Run, rng: random.Random) -> bool:
    """Flip a bit of the newest checkpoint, if there is an older one."""
    if len(run.checkpoints()) < 2:
        return False
    path = file_of_newest(run, rng)
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return bool(content)


def cut_off(run: Run, rng: random.Random) -> bool:
    """Truncate a file of the newest checkpoint, if there is an older one."""
    if len(run.checkpoints()) < 2:
        return False
    path = file_of_newest(run, rng)
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])
    return True


def file_of_newest(run: Run, rng: random.Random) -> Path:
    return rng.choice(sorted(path for path in run.checkpoints()[0].rglob("*") if path.is_file()))


def remove_newest(run: Run, rng: random.Random) -> bool:
    """Delete the newest checkpoint; without another one, the run starts from scratch."""
    if run.checkpoints():
        shutil.rmtree(run.checkpoints()[0])
        return True
    return False


def copy_newest(run: Run, rng: random.Random) -> bool:
    """Copy the newest checkpoint under the number of a step after the oldest."""
    if not (steps := [int(path.name) for path in run.checkpoints()]):
        return False
    step = rng.choice(sorted({*range(steps[-1], steps[0] + 20)} - {*steps}))
    shutil.copytree(run.checkpoints()[0], run.workdir / "checkpoints" / str(step))
    return True


def add_images(photos: Path, rng: random.Random) -> str:
    draw_photos(photos, range(1000, 1000 + rng.randrange(1, 20)))
    return "(train had 256 examples and has 2"


def remove_images(photos: Path, rng: random.Random) -> str:
    for path in rng.sample(sorted(photos.glob("*/*")), rng.randrange(2, 20)):
        path.unlink()
    return "(train had 256 examples and has 2"


def replace_an_image(photos: Path, rng: random.Random) -> str:
    number = rng.randrange(PAIRS)
    draw_photos(photos, range(number, number + 1), seed=1)
    return "(train has 256 other images or labels; "


def change_data(change: Callable[[Path, random.Random], str], run: Run, rng: random.Random) -> bool:
    """Start the run with other images, which it must refuse with what `change` returns, and restore the old ones."""
    if not run.checkpoints():
        return False
    shutil.copytree(run.photos, run.folder / "backup")
    try:
        changed = change(run.photos, rng)
        refuse(run, [run.start()], f"{run.workdir} holds a different run {changed}")
    finally:
        shutil.rmtree(run.photos)
        (run.folder / "backup").rename(run.photos)
    return True


def lose_config(run: Run, rng: random.Random) -> bool:
    """Delete config.json and start the run with another seed, which it must refuse."""
    path = run.workdir / "config.json"
    if not run.checkpoints() or not path.exists():
        return False
    path.unlink()
    refuse(run, [run.start("--config.seed=1")], "holds a different run (config.seed: 0 -> 1)")
    return True


def refuse(run: Run, processes: list[subprocess.Popen], why: str) -> None:
    """Check that all processes end with 1, that only the first says why, in one line, and that no file changes."""
    before = run.content()
    codes, _, told = zip(*map(ended, processes), strict=True)
    check(set(codes) == {1}, (codes, told))
    check(told[0].startswith("error: ") and told[0].count("\n") == 1 and not any(told[1:]), told)
    check(why in told[0], told)
    check(run.content() == before, "files of the workdir changed")


DIFFERENCES = {
    "learning rate": (["--config.optimizer.learning_rate=0.01"], "config.optimizer.learning_rate (0.1 in process 0,"),
    "seed": (["--config.seed=1"], "config.seed (0 in process 0, 1 in process 1)"),
    "images": ([], "data of config.data.train ({'examples': 256,"),
}


def differ(what: str, run: Run, rng: random.Random) -> bool:
    """Start the run as two processes that differ, which both must refuse.

    Each finds its images in the same relative path of its own folder, as two machines do.
    """
    both = {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}"}
    words, why = DIFFERENCES[what]
    other = run.folder / "other"
    shutil.copytree(run.photos, other / "photos")
    if what == "images":
        replace_an_image(other / "photos", rng)
    here, there = (run.command("--config.data.dir=photos", *more) for more in ([], words))
    processes = [popen(here, run.folder, JAX_PROCESS_ID="0", **both), popen(there, other, JAX_PROCESS_ID="1", **both)]
    refuse(run, processes, f"all processes of a run must have the same {why}")
    shutil.rmtree(other)
    return True


def close_stdout(run: Run, rng: random.Random) -> bool:
    """Start the run without a stdout, and stop it at a random moment."""
    with popen(["sh", "-c", 'exec "$@" >&-', "sh", *run.command()]) as process:
        injection.sleep(process, rng.uniform(0, ANY_MOMENT))
        check_stop(process, 0)
    return True


def leave_stdout(run: Run, rng: random.Random) -> bool:
    """Start the run, read only the first line that it prints, like head -1, and stop the run at a random moment."""
    with run.start() as process:
        process.stdout.readline()
        process.stdout.close()
        injection.sleep(process, rng.uniform(0, ANY_MOMENT))
        check_stop(process, 128 + signal.SIGPIPE)
    return True


def check_stop(process: subprocess.Popen, finished: int) -> None:
    """Send SIGTERM, and check that the process says so in at most one line, or that it is `finished`."""
    process.terminate()
    told = process.stderr.read()
    code = process.wait(PATIENCE)
    check(code in (finished, 143, -signal.SIGTERM), (code, told))
    check(told in ("", "stopped by SIGTERM; the same command resumes from here\n"), told)


def read_while_it_ends(run: Run, rng: random.Random) -> bool:
    """Let the run come to its end while two processes report on it and evaluate it, again and again."""
    with run.start() as process:
        injection.wait_for_epoch(process)
        readers: dict[str, subprocess.Popen] = {}
        while process.poll() is None:
            for verb in ("report", "evaluate"):
                if verb in readers and readers[verb].poll() is None:
                    continue
                if verb in readers:
                    check_reader(readers[verb], (0, 1))
                readers[verb] = popen([sys.executable, *injection.PROGRAM, verb, f"--workdir={run.workdir}"])
            read_files(run.workdir)
            time.sleep(rng.uniform(0, 0.02))
        code, _, told = ended(process)
        check((code, told) == (0, ""), (code, told))
    for reader in readers.values():
        check_reader(reader, (0,))
    return bool(readers)


def check_reader(process: subprocess.Popen, codes: tuple[int, ...]) -> None:
    """Check that a process that reads a run has done so, or has said in one line why there is nothing to read yet."""
    code, out, told = ended(process)
    check(code in codes and told.count("\n") == code, (process.args, code, told))
    check("damaged" not in out + told, (process.args, out, told))


def read_files(workdir: Path) -> None:
    """Read whatever a run has written so far: an incomplete file raises an error."""
    readers = {
        "config.json": read_json,
        "metrics.csv": read_csv,
        "report/results.json": read_json,
        "report/predictions.npz": read_predictions,
    }
    for name, read in readers.items():
        if (workdir / name).exists():
            try:
                read(workdir / name)
            except Exception as error:
                raise AssertionError(f"{name} is not whole: {error}") from error
            check(True, name)


def sweep_twice(run: Run, rng: random.Random) -> bool:
    """Start a sweep, and the same one again a little later: they share its trials, and a trial ends like any run."""
    folder = run.folder / f"sweep{rng.randrange(10**9)}"
    rates = [f"0.{number:03}" for number in sorted(rng.sample(range(1, 1000), TRIALS))]
    short = [*injection.SMALL, *run.words, f"--config.train.epochs={TRIAL_EPOCHS}", "--config.data.test="]
    program = [sys.executable, *injection.PROGRAM]
    command = [*program, "sweep", *short, f"optimizer.learning_rate={','.join(rates)}", f"--workdir={folder}"]
    first = popen(command)
    time.sleep(rng.uniform(0, ANY_MOMENT))
    codes, out, told = zip(*map(ended, (first, popen(command))), strict=True)
    check((codes, told) == ((0, 0), ("", "")), (codes, told))
    trained = re.findall(rf"^trial (\d+) of {TRIALS}: ", "\n".join(out), re.MULTILINE)
    check(sorted(map(int, trained)) == [*range(1, TRIALS + 1)], f"trials trained: {trained}")
    check((folder / "sweep.csv").read_text().count(",complete,") == TRIALS, (folder / "sweep.csv").read_text())
    rate = rng.choice(rates)
    code, _, alone = ended(
        popen([*program, *short, f"--config.optimizer.learning_rate={rate}", f"--workdir={folder / 'alone'}"])
    )
    check((code, alone) == (0, ""), (code, alone))
    [trial] = [path for path in (folder / "trials").iterdir() if float(path.name.partition("=")[2]) == float(rate)]
    rows = [(path / "metrics.csv").read_bytes() for path in (trial, folder / "alone")]
    check(rows[0] == rows[1], f"{trial} has other metrics than the same run alone")
    left = [path for path in folder.rglob(".*.tmp")]
    check(not left, f"left behind: {left}")
    shutil.rmtree(folder)
    return True


Fault = Callable[[Run, random.Random], bool]

STOPS: dict[str, Fault] = {
    f"{name} while {doing}": partial(interrupt, signum, doing) for name, signum in SIGNALS.items() for doing in MOMENTS
}
OTHERS: dict[str, Fault] = {
    "a bit flipped in the newest checkpoint": flip_a_bit,
    "a file of the newest checkpoint cut off": cut_off,
    "the newest checkpoint removed": remove_newest,
    "the newest checkpoint copied under another number": copy_newest,
    "images added": partial(change_data, add_images),
    "images removed": partial(change_data, remove_images),
    "an image replaced": partial(change_data, replace_an_image),
    "config.json lost and another seed given": lose_config,
    "two processes with different learning rates": partial(differ, "learning rate"),
    "two processes with different seeds": partial(differ, "seed"),
    "two processes with different images": partial(differ, "images"),
    "stdout closed": close_stdout,
    "reader of stdout gone after a line": leave_stdout,
    "report and evaluate again and again while the run ends": read_while_it_ends,
    "two sweeps at once in one folder": sweep_twice,
}
