"""launch/slurm.sh, with stand-ins for srun, scancel and scontrol."""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.test_launch import ROOT, WORDS, launch, stand_in


def test_slurm_starts_a_process_for_each_gpu():
    job = {"SLURM_NTASKS_PER_NODE": "4", "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "6", "DRY_RUN": "1"}
    srun, *flags = shlex.split(launch("slurm.sh", *WORDS, **job).stdout)
    assert srun == "srun"
    assert flags == [
        "--kill-on-bad-exit=1",
        "--cpus-per-task=6",
        ".venv/bin/python",
        "-m",
        "resnet_flax.main",
        *WORDS,
    ]
    refused = launch("slurm.sh", *WORDS, **job | {"SLURM_GPUS_ON_NODE": "8"})
    assert refused.returncode == 1
    assert refused.stderr == "error: --gpus-per-node is 8 and --ntasks-per-node 4: make them equal\n"


# What srun does in these tests: SIGTERM to itself kills its tasks, as the real one does; SIGUSR2 stands for a SIGTERM
# to its tasks, which the run answers by saving and stopping.
SRUN = """trap 'exit 137' TERM; trap 'exit {code}' USR2
echo $$ > {folder}/srun.pid; for _ in $(seq 500); do sleep 0.02; done"""
SCANCEL = '[[ "$*" == "--signal=TERM 7" ]] && kill -USR2 "$(cat {folder}/srun.pid)"'


@contextlib.contextmanager
def slurm_job(folder: Path, code: int):
    """Yield a job whose run, when it is asked to stop, ends with this code, and a function that asks it."""
    environment = stand_in(folder, "srun", SRUN.format(folder=folder, code=code))
    stand_in(folder, "scancel", SCANCEL.format(folder=folder))
    stand_in(folder, "scontrol", 'echo "$@"')
    job = {"SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_ID": "7"}
    command = [str(ROOT / "launch" / "slurm.sh"), *WORDS]
    with subprocess.Popen(command, env=os.environ | environment | job, stdout=subprocess.PIPE, text=True) as script:
        while not (folder / "srun.pid").exists() or not (folder / "srun.pid").read_text():
            time.sleep(0.02)
        yield script, lambda: os.kill(int((folder / "srun.pid").read_text()), signal.SIGUSR2)


def test_slurm_queues_a_run_again_that_ran_out_of_time(tmp_path):
    with slurm_job(tmp_path, 143) as (script, _):
        script.send_signal(signal.SIGUSR1)
        assert script.communicate(timeout=20)[0] == "requeue 7\n"
    assert script.returncode == 143


@pytest.mark.parametrize("code", [143, 70])
def test_slurm_neither_queues_nor_starts_again_a_run_that_was_cancelled(tmp_path, code):
    with slurm_job(tmp_path, code) as (script, stop_tasks):
        script.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        assert script.poll() is None  # the run is saving
        stop_tasks()
        assert script.communicate(timeout=20)[0] == ""
    assert script.returncode == code


@pytest.mark.parametrize("code", [0, 1, 4, 143])
def test_slurm_ends_with_the_code_of_the_run(tmp_path, code):
    environment = stand_in(tmp_path, "srun", f"echo start; exit {code}")
    done = launch("slurm.sh", *WORDS, SLURM_NTASKS_PER_NODE="1", SLURM_GPUS_ON_NODE="1", **environment)
    assert (done.returncode, done.stdout) == (code, "start\n")


@pytest.mark.parametrize(("crashes", "code"), [(2, 0), (3, 70)])
def test_slurm_starts_a_run_that_crashes_again_but_not_for_ever(tmp_path, crashes, code):
    srun = f"echo start >> {tmp_path}/starts; [[ $(wc -l < {tmp_path}/starts) -gt {crashes} ]] || exit 70"
    environment = stand_in(tmp_path, "srun", srun)
    done = launch("slurm.sh", *WORDS, SLURM_NTASKS_PER_NODE="1", SLURM_GPUS_ON_NODE="1", **environment)
    assert done.returncode == code
    assert (tmp_path / "starts").read_text() == "start\n" * 3
