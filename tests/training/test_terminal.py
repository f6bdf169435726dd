"""A run leaves its terminal tidy, and survives the loss of its terminal or of the reader of its output."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.faults.injection import LONG, ROOT, SMALL, newest, start, wait_for_epoch

pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")

# Takes its standard input for the terminal that controls it, as a shell does, and becomes another program.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A terminal of 100 columns in which a run is started."""

    def __init__(self, workdir: Path, *words: str, before: tuple[str, ...] = ()):
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 100))
        command = [*before, sys.executable, "-m", "resnet_flax.main", *SMALL, *words, f"--workdir={workdir}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *command],
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def read(self) -> bool:
        """Read what is there. False at the end."""
        with contextlib.suppress(OSError):  # how the end of a terminal reads
            if not select.select([self.master], [], [], 0.1)[0]:
                return True
            if part := os.read(self.master, 65536):
                self.text += part.decode(errors="replace")
                return True
        return False

    def wait_for(self, pattern: str) -> None:
        late = time.monotonic() + 60
        while not re.search(pattern, self.text):
            assert self.read() and time.monotonic() < late, self.text

    def press_ctrl_c(self) -> None:
        os.write(self.master, b"\x03")

    def close(self) -> None:
        os.close(self.master)

    def lines(self) -> list[str]:
        """Return what is on the screen once the run has ended, line by line."""
        while self.read():
            pass
        return [on_screen(line) for line in self.text.split("\n")]


def on_screen(line: str) -> str:
    """Return what a line shows after all that was written over it."""
    cells: list[str] = []
    column = 0
    for word in re.findall(r"\x1b\[K|.", line, re.DOTALL):
        if word == "\x1b[K":
            del cells[column:]
        elif word == "\r":
            column = 0
        else:
            cells[column : column + 1] = word
            column += 1
    assert column < 100  # else the terminal would have begun another line
    return "".join(cells).rstrip()


def test_ctrl_c_in_an_epoch_leaves_no_bar_behind(tmp_path):
    terminal = Terminal(tmp_path, *LONG)
    terminal.wait_for(r"epoch +4/\d+ .*img/s")
    terminal.press_ctrl_c()
    lines = terminal.lines()
    assert terminal.process.wait(60) == 130
    assert lines[-2:] == ["stopped by SIGINT; the same command resumes from here", ""]
    assert all(re.match("epoch +\\d+/\\d+  loss", line) for line in lines[1:-2]), lines


def test_closed_terminal_saves_and_stops_the_run(tmp_path):
    terminal = Terminal(tmp_path, *LONG)
    terminal.wait_for(r"epoch +2/\d+  loss")
    terminal.close()
    assert terminal.process.wait(60) == 129
    assert newest(tmp_path, *LONG)[0] > 8
    resumed(tmp_path)


def test_hangup_saves_and_stops_a_run_without_a_terminal(tmp_path):
    with start(tmp_path, *LONG) as process:
        wait_for_epoch(process)
        process.send_signal(signal.SIGHUP)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (129, "stopped by SIGHUP; the same command resumes from here\n")
    resumed(tmp_path)


def test_nohup_survives_its_terminal(tmp_path):
    nohup = ("sh", "-c", f'exec nohup "$@" > {tmp_path}/output', "sh")
    terminal = Terminal(tmp_path / "run", "--config.train.epochs=8", "--config.train.patience=0", before=nohup)
    while not (tmp_path / "run" / "metrics.csv").exists():
        terminal.read()
    terminal.close()
    assert terminal.process.wait(60) == 0
    assert (tmp_path / "run" / "report" / "results.json").exists()


def test_run_whose_output_is_no_longer_read_is_trained_to_its_end(tmp_path):
    """As of `python -m resnet_flax.main ... | head -3`."""
    with start(tmp_path, "--config.train.epochs=8", "--config.train.patience=0") as process:
        wait_for_epoch(process)
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (141, "")
    assert (tmp_path / "report" / "results.json").exists()


def resumed(workdir) -> None:
    """Check that the run resumes where it was stopped, after the last epoch that it has finished."""
    step, history, _ = newest(workdir, *LONG)
    assert step >= history[-1]["step"] >= 8
    with start(workdir, *LONG) as process:
        wait_for_epoch(process)
        process.kill()


def test_evaluation_shows_its_progress(tmp_path):
    terminal = Terminal(tmp_path, "--config.train.epochs=2", "--config.train.patience=0")
    lines = terminal.lines()
    assert terminal.process.wait(60) == 0
    assert re.search(r"epoch 1/2 validation .* \d+/216", terminal.text)
    assert re.search(r"\rtest .* \d+/360", terminal.text)
    assert len([line for line in lines if "validation" in line]) == 0
