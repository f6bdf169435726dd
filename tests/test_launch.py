"""The launchers, as far as they go without a cloud: what they ask of gcloud, kubectl and srun."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from launch import local

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
WORDS = ["--config=configs/preact.py", "--config.model.blocks=(1, 1)", "--config.data.policy=flip|normalize('half')"]
JOB = {"IMAGE": "registry/resnet:1", "CLAIM": "runs", "HOSTS": "2"}
GPUS = JOB | {"GPUS": "8"}
TPU = JOB | {"TPU": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4", "CHIPS": "8", "NAME": "pod"}


def launch(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [str(ROOT / "launch" / script), *words]
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHON"}  # make may have set it
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True)


def stand_in(folder: Path, name: str, script: str) -> dict[str, str]:
    """Return an environment in which the command `name` is `script`."""
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say():
    subprocess.run(["shellcheck", *SCRIPTS], check=True)


def test_scripts_without_arguments_print_their_usage():
    for script in ("tpu.sh", "gke.sh"):
        done = launch(script)
        assert done.returncode == 2
        assert f"launch/{script}" in done.stderr
    assert launch("gke.sh", *WORDS, IMAGE="i", GPUS="1").stderr.splitlines()[-1] == "error: CLAIM is not set"
    assert "start this with sbatch" in launch("slurm.sh", *WORDS).stderr
    assert local.main([]) == 2


def dry_run(*words: str, **environment: str) -> list[list[str]]:
    done = launch("tpu.sh", *words, DRY_RUN="1", **environment)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_a_tpu_is_made_and_gets_this_commit_on_all_hosts():
    made, copied, *commands = dry_run("create", NAME="pod", TYPE="v5litepod-16", SPOT="1")
    assert made[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "create", "pod"]
    assert {"--accelerator-type=v5litepod-16", "--spot", "--zone=us-central1-a"} <= set(made)
    assert copied[4] == "scp" and {"pod:resnet_flax.tgz", "--worker=all"} <= set(copied)
    assert all(command[4:7] == ["ssh", "pod", "--worker=all"] for command in commands)
    assert "--editable='.[tpu]'" in commands[-1][7]
    others = {"log": "tail", "stop": "kill -TERM", "fetch": "pod:resnet_flax/runs", "delete": "delete"}
    for verb, word in others.items():
        (command,) = dry_run(verb, NAME="pod")
        assert any(word in part for part in command)


def test_a_tpu_trains_with_exactly_the_words_given_and_stops(tmp_path):
    """gcloud is a shell here, whose home has a Python that notes its words and waits for SIGTERM."""
    home = tmp_path / "home"
    python = home / "resnet_flax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!{sys.executable}\nimport signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))\n"
        "print(sys.argv[1:], flush=True)\nsignal.pause()\n"
    )
    python.chmod(0o755)
    ssh = f'for word; do [[ $word != --command=* ]] || HOME={home} bash -c "cd && ${{word#--command=}}"; done'
    environment = stand_in(tmp_path, "gcloud", ssh)
    assert launch("tpu.sh", "train", *WORDS, **environment).returncode == 0
    log = home / "resnet_flax" / "train.log"
    wait_for(log, f"{['-m', 'resnet_flax.main', *WORDS]}\n")
    assert launch("tpu.sh", "stop", **environment).returncode == 0
    wait_for(log, f"{['-m', 'resnet_flax.main', *WORDS]}\nstopped\n")


def wait_for(file: Path, text: str) -> None:
    """Wait until a file has this content."""
    for _ in range(500):
        if file.exists() and file.read_text() == text:
            return
        time.sleep(0.02)
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("environment", "limits", "selector"),
    [
        (GPUS, {"nvidia.com/gpu": 8}, {}),
        (
            TPU,
            {"google.com/tpu": 8},
            {
                "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
                "cloud.google.com/gke-tpu-topology": "4x4",
            },
        ),
    ],
)
def test_a_kubernetes_job_starts_processes_that_find_each_other(environment, limits, selector):
    done = launch("gke.sh", *WORDS, DRY_RUN="1", **environment)
    service, job = yaml.safe_load_all(done.stdout)
    name = environment.get("NAME", "resnet-flax")
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]} == {"job-name": name}
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    pod = job["spec"]["template"]["spec"]
    assert (pod["subdomain"], pod["restartPolicy"], pod["nodeSelector"]) == (name, "Never", selector)
    (container,) = pod["containers"]
    assert (container["args"], container["resources"]["limits"]) == (WORDS, limits)
    said = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert said == {
        "JAX_COORDINATOR_ADDRESS": f"{name}-0.{name}:8476",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": None,  # Kubernetes says it
    }
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_a_kubernetes_job_is_applied(tmp_path):
    environment = stand_in(tmp_path, "kubectl", f'echo "$@"; cat > {tmp_path}/applied.yaml')
    done = launch("gke.sh", *WORDS, **GPUS, **environment)
    assert done.stdout == "apply --filename=-\n"
    assert (tmp_path / "applied.yaml").read_text() == launch("gke.sh", *WORDS, DRY_RUN="1", **GPUS).stdout


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


def test_local_exits_with_the_code_of_the_first_process_that_failed(monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *handler: None)  # of this process, for all tests to come
    assert local.main(["2", "--config=nothing.py"]) == 1
