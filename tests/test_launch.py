"""The launchers, as far as they go without a cloud: what they ask of gcloud and kubectl."""

import contextlib
import os
import shlex
import shutil
import signal
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
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, timeout=120)


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
    for script in ("tpu.sh", "gke.sh", "spot.sh"):
        done = launch(script)
        assert done.returncode == 2
        assert f"launch/{script}" in done.stderr
    assert launch("gke.sh", *WORDS, IMAGE="i", GPUS="1").stderr.splitlines()[-1] == "error: CLAIM is not set"
    assert (
        launch("spot.sh", *WORDS, BUCKET="b").stderr.splitlines()[-1].startswith("error: BUCKET must be set to gs://")
    )
    assert "start this with sbatch" in launch("slurm.sh", *WORDS).stderr
    assert local.main([]) == 2


def dry_run(*words: str, **environment: str) -> list[list[str]]:
    done = launch("tpu.sh", *words, DRY_RUN="1", **environment)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_a_tpu_is_made_and_gets_this_commit_on_all_hosts():
    made, copied, *commands = dry_run("create", NAME="pod", TYPE="v5litepod-16")
    assert made[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "create", "pod"]
    assert {"--accelerator-type=v5litepod-16", "--zone=us-central1-a"} <= set(made)
    assert copied[4] == "scp" and {"pod:resnet_flax.tgz", "--worker=all"} <= set(copied)
    assert all(command[4:7] == ["ssh", "pod", "--worker=all"] for command in commands)
    assert "--editable='.[tpu]'" in commands[-1][7]
    others = {"log": "tail", "stop": "pkill -TERM", "fetch": "pod:resnet_flax/runs", "delete": "delete"}
    for verb, word in others.items():
        (command,) = dry_run(verb, NAME="pod")
        assert any(word in part for part in command)


@pytest.fixture
def tpu(tmp_path):
    """Return an environment in which gcloud is a shell, and the log of its Python.

    That one notes its words, and on SIGTERM that it has stopped.
    """
    home = tmp_path / "home"
    python = home / "resnet_flax" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!{sys.executable}\nimport signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))\n"
        "print(sys.argv[1:], flush=True)\nsignal.pause()\n"
    )
    python.chmod(0o755)
    ssh = f'for word; do [[ $word != --command=* ]] || HOME={home} bash -c "cd && ${{word#--command=}}" || exit; done'
    environment = stand_in(tmp_path, "gcloud", ssh)
    yield environment, home / "resnet_flax" / "train.log"
    launch("tpu.sh", "stop", **environment)  # after a test that fails


def test_a_tpu_trains_with_exactly_the_words_given_and_stops(tpu):
    environment, log = tpu
    assert launch("tpu.sh", "train", *WORDS, **environment).returncode == 0
    wait_for(log, f"{['-m', 'resnet_flax.main', *WORDS]}\n")
    assert launch("tpu.sh", "stop", **environment).returncode == 0
    wait_for(log, f"{['-m', 'resnet_flax.main', *WORDS]}\nstopped\n")


def test_a_tpu_that_trains_already_is_not_started_twice(tpu):
    environment, log = tpu
    started = f"{['-m', 'resnet_flax.main', *WORDS]}\n"
    launch("tpu.sh", "train", *WORDS, **environment)
    wait_for(log, started)
    again = launch("tpu.sh", "train", *WORDS, **environment)
    assert again.returncode == 1
    assert again.stderr == "it is training already: launch/tpu.sh log follows it, launch/tpu.sh stop ends it\n"
    launch("tpu.sh", "stop", **environment)
    wait_for(log, started + "stopped\n")


def test_training_on_a_tpu_again_appends_to_its_log_even_if_another_process_has_the_old_number(tpu):
    environment, log = tpu
    (log.parent / "train.pid").write_text(f"{os.getpid()}\n")
    log.write_text("before\n")
    assert launch("tpu.sh", "train", *WORDS, **environment).returncode == 0
    wait_for(log, f"before\n{['-m', 'resnet_flax.main', *WORDS]}\n")


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
        (GPUS | {"SPOT": "1"}, {"nvidia.com/gpu": 8}, {"cloud.google.com/gke-spot": "true"}),
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
        "JAX_PLATFORMS": "cuda" if "GPUS" in environment else "tpu,cpu",
        "XDG_CACHE_HOME": "/app/runs/.cache",
        "TFDS_DATA_DIR": "/app/runs/.cache/tensorflow_datasets",
    }
    assert "/app/runs" in [mount["mountPath"] for mount in container["volumeMounts"]]
    disrupted, failing, stopped = job["spec"]["podFailurePolicy"]["rules"]
    assert (failing["action"], failing["onExitCodes"]["values"]) == ("FailJob", [1, 4])
    assert (disrupted["action"], stopped["action"], stopped["onExitCodes"]["values"]) == ("Ignore", "Ignore", [75, 143])
    assert job["spec"]["backoffLimit"] == 12  # crashes, with any other code such as 70: six for each host
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


# kubectl, where a job has these conditions.
KUBECTL = """
echo "$1 $2 $3" >> {folder}/calls
case $1 in
get) printf %s "{found}" ;;
delete) echo "$@" ;;
apply) echo "$@"; cat > {folder}/applied.yaml ;;
esac
"""


def test_a_kubernetes_job_is_applied(tmp_path):
    environment = stand_in(tmp_path, "kubectl", KUBECTL.format(folder=tmp_path, found=""))
    done = launch("gke.sh", *WORDS, **GPUS, **environment)
    assert done.stdout == "apply --filename=-\n"
    assert (tmp_path / "applied.yaml").read_text() == launch("gke.sh", *WORDS, DRY_RUN="1", **GPUS).stdout


@pytest.mark.parametrize("conditions", ["SuccessCriteriaMet Complete", "FailureTarget Failed"])
def test_a_kubernetes_job_that_has_ended_is_deleted_before_it_is_applied_again(tmp_path, conditions):
    environment = stand_in(tmp_path, "kubectl", KUBECTL.format(folder=tmp_path, found=f"Job {conditions}"))
    done = launch("gke.sh", *WORDS, **GPUS, **environment)
    assert done.stdout == "delete job resnet-flax --cascade=foreground\napply --filename=-\n"


@pytest.mark.parametrize("conditions", ["", "FailureTarget", "Suspended"])
def test_a_kubernetes_job_that_runs_is_neither_deleted_nor_applied(tmp_path, conditions):
    environment = stand_in(tmp_path, "kubectl", KUBECTL.format(folder=tmp_path, found=f"Job {conditions}"))
    done = launch("gke.sh", *WORDS, **GPUS, **environment)
    assert done.returncode == 1
    assert done.stderr.startswith("error: job resnet-flax is running: ") and done.stderr.count("\n") == 1
    assert (tmp_path / "calls").read_text() == "get job resnet-flax\n"


def test_a_kubernetes_job_whose_state_is_unknown_is_not_applied(tmp_path):
    done = launch("gke.sh", *WORDS, **GPUS, **stand_in(tmp_path, "kubectl", 'echo "$1"; exit 1'))
    assert (done.returncode, done.stdout) == (1, "")


# gcloud with a folder as bucket, and one TPU of one host, which runs its startup script at once. A call fails once, for
# want of a connection, for each file in `failures` whose name begins with its verb.
GCLOUD = """
import contextlib, os, shutil, signal, subprocess, sys
from pathlib import Path

base, words = Path({folder!r}), [word for word in sys.argv[1:] if not word.startswith("-") or word == "-"]
state, host = base / "state", base / "host"
options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
place = [Path(word.replace("gs:/", str(base))) for word in words]
with open(base / "calls", "a") as calls:
    print(*words[:4], file=calls)
for failure in (base / "failures").glob("*"):
    if failure.name.split("-")[0] in words[:4]:
        failure.unlink()
        sys.exit("ERROR: (gcloud) UNAVAILABLE: no connection")
match words:
    case [*_, "queued-resources", "describe", _]:
        sys.exit(print(state.read_text()) if state.exists() else "ERROR: (gcloud) NOT_FOUND: Resource was not found.")
    case [*_, "queued-resources", "create", _] if state.exists():
        sys.exit("ERROR: (gcloud) ALREADY_EXISTS")
    case [*_, "queued-resources", "create", _]:
        shutil.copy(options["--metadata-from-file"].removeprefix("startup-script="), base / "start.sh")
        (base / "active").write_text("ACTIVE")
        (base / "active").rename(state)
        quiet = dict(stdin=subprocess.DEVNULL, stdout=open(base / "host.log", "a"), stderr=subprocess.STDOUT)
        environment = os.environ | {{"FOLDER": str(host)}}
        started = subprocess.Popen(["bash", base / "start.sh"], env=environment, start_new_session=True, **quiet)
        (base / "host.pid").write_text(str(started.pid))
    case [*_, "queued-resources", "delete", _]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int((base / "host.pid").read_text()), signal.SIGKILL)
        state.unlink()
        shutil.rmtree(host, ignore_errors=True)
    case ["storage", "rsync", *_]:
        place[3].parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(place[2], place[3], dirs_exist_ok=True)
        (base / "copied").touch()
        with contextlib.suppress(ProcessLookupError):  # one that takes longer than the run
            while (base / "slow").exists():
                os.kill(int((base / "slow").read_text()), 0)
    case ["storage", "cp", "-", _]:
        place[3].write_text(sys.stdin.read())
    case ["storage", "cp", *_]:
        place[3].parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place[2], place[3])
    case ["storage", "ls", url]:
        for path in place[2].iterdir():
            print(f"{{url}}{{path.name}}" + "/" * path.is_dir())
    case ["storage", "cat", _]:
        sys.exit(print(place[2].read_text()) if place[2].exists() else 1)
    case ["storage", "rm", _]:
        place[2].unlink()
"""
# The run: an epoch at each start; the third is the last. After the others the TPU is taken away once they are copied.
RUN = """
touch runs/epoch$(ls runs | wc -l)
echo "$(ls runs | wc -l): $*"
[[ $(ls runs | wc -l) != 3 ]] || exit 0
trap 'exit 143' TERM
until [[ $(ls {folder}/bucket/runs 2> /dev/null | wc -l) == $(ls runs | wc -l) ]]; do sleep 0.02; done
echo SUSPENDED > {folder}/gone; mv {folder}/gone {folder}/state; kill $PPID; for _ in $(seq 500); do sleep 0.02; done
"""


@pytest.fixture
def spot(tmp_path):
    """Return what trains on a spot TPU, where a run is this script.

    Installing stands still here: python3 makes a .venv whose Python is the script.
    """

    def spot(run: str, install: str = "true") -> subprocess.CompletedProcess:
        environment = stand_in(tmp_path, "curl", "echo 0")  # the first host
        stand_in(tmp_path, "run", run.format(folder=tmp_path))
        stand_in(tmp_path, "python3", f"{install} && mkdir -p .venv/bin && cp {tmp_path}/run .venv/bin/python")
        (tmp_path / "gcloud.py").write_text(GCLOUD.format(folder=str(tmp_path)))
        stand_in(tmp_path, "gcloud", f'exec {sys.executable} {tmp_path}/gcloud.py "$@"')
        return launch("spot.sh", *WORDS, **environment, BUCKET="gs://bucket", SECONDS_BETWEEN="0.05")

    (tmp_path / "failures").mkdir()
    yield spot
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # of a test that fails
        os.killpg(int((tmp_path / "host.pid").read_text()), signal.SIGKILL)


def called(folder: Path, verb: str) -> int:
    """Return how many queued resources gcloud was asked to create, delete or describe."""
    return (folder / "calls").read_text().splitlines().count(f"compute tpus queued-resources {verb}")


def test_a_spot_tpu_on_which_nothing_can_be_installed_is_deleted(spot, tmp_path):
    done = spot("echo start", install="echo no connection && false")
    assert done.returncode == 70, done.stderr
    assert called(tmp_path, "create") == called(tmp_path, "delete") == 1
    assert (tmp_path / "bucket" / "install.log").read_text() == "no connection\n" * 3
    assert not (tmp_path / "bucket" / "train.log").exists()


def test_an_installation_on_a_spot_tpu_that_fails_is_tried_again(spot, tmp_path):
    failing = f"[[ -e {tmp_path}/installing ]] || {{ touch {tmp_path}/installing; exit 1; }}"
    assert spot("echo start", install=failing).returncode == 0
    assert (tmp_path / "bucket" / "train.log").read_text() == "start\n"


def test_a_spot_tpu_that_is_taken_away_is_queued_for_again_and_its_run_resumes(spot, tmp_path):
    done = spot(RUN)
    assert done.returncode == 0, done.stderr + (tmp_path / "host.log").read_text()
    assert called(tmp_path, "create") == called(tmp_path, "delete") == 3
    assert done.stdout.count("the TPU is gone: queueing again") == 2
    assert done.stdout.splitlines()[-1] == "the run has ended with code 0: gs://bucket/train.log and gs://bucket/runs"
    words = " ".join(["-m", "resnet_flax.main", *WORDS])
    assert (tmp_path / "bucket" / "train.log").read_text().splitlines() == [f"{n}: {words}" for n in (1, 2, 3)]
    assert len(list((tmp_path / "bucket" / "runs").iterdir())) == 3


def test_a_spot_tpu_is_deleted_only_when_the_end_of_its_run_is_in_the_bucket(spot, tmp_path):
    """The run ends while a copy without its results is under way, and then the bucket cannot be reached."""
    done = spot(
        "touch runs/epoch1; rm -f {folder}/copied; echo $$ > {folder}/slow\n"
        "until [[ -e {folder}/copied ]]; do sleep 0.02; done\n"
        "touch runs/results.json {folder}/failures/{{rsync-1,rsync-2,cp-1,cp-2}}; echo the end"
    )
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "failures").iterdir())
    assert (tmp_path / "bucket" / "runs" / "results.json").exists()
    assert (tmp_path / "bucket" / "train.log").read_text() == "the end\n"


def test_a_spot_run_is_not_begun_again_when_its_copy_cannot_be_read(spot, tmp_path):
    (tmp_path / "bucket" / "runs").mkdir(parents=True)
    (tmp_path / "bucket" / "runs" / "epoch1").touch()
    for failure in ("ls-1", "rsync-1"):
        (tmp_path / "failures" / failure).touch()
    assert spot("ls runs").returncode == 0
    assert (tmp_path / "bucket" / "train.log").read_text() == "epoch1\n"


def test_a_spot_tpu_is_not_asked_for_twice_when_its_state_is_unknown(spot, tmp_path):
    failures = tmp_path / "failures"
    done = spot(f"touch {failures}/describe-1; while [[ -e {failures}/describe-1 ]]; do sleep 0.02; done; sleep 0.5")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "the state of the TPU is unknown, trying again: ERROR: (gcloud) UNAVAILABLE: no connection"
    ]
    assert called(tmp_path, "create") == called(tmp_path, "delete") == 1


def test_taking_over_a_spot_run_that_has_ended_keeps_its_exit_code(spot, tmp_path):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "exit").write_text("4")
    (tmp_path / "state").write_text("ACTIVE")
    (tmp_path / "host.pid").write_text(str(2**22))  # no such process
    (tmp_path / "failures" / "describe-1").touch()
    assert spot("exit 0").returncode == 4
    assert (called(tmp_path, "create"), called(tmp_path, "delete")) == (0, 1)


def test_a_spot_tpu_that_cannot_be_asked_for_or_deleted_is_tried_again(spot, tmp_path):
    for failure in ("create-1", "delete-1", "delete-2"):
        (tmp_path / "failures" / failure).touch()
    done = spot("exit 0")
    assert done.returncode == 0, done.stderr
    assert (called(tmp_path, "create"), called(tmp_path, "delete")) == (2, 3)
    assert not (tmp_path / "state").exists()


# A run that crashes whenever it starts; the starts named make a checkpoint first, and all leave an unfinished one.
CRASH = """
echo start
case $(wc -l < train.log) in {progress}) mkdir -p runs/a/checkpoints/$(wc -l < train.log) ;; esac
mkdir -p runs/a/checkpoints/1.orbax-checkpoint-tmp-$RANDOM
exit {code}
"""


@pytest.mark.parametrize("code", [70, 75])  # of a crash, and of a crash on another host
@pytest.mark.parametrize(("progress", "starts"), [("none", 3), ("2 | 4", 6)])
def test_a_spot_run_that_crashes_is_started_until_three_crashes_in_a_row_without_progress(
    spot, tmp_path, code, progress, starts
):
    assert spot(CRASH.format(progress=progress, code=code)).returncode == code
    assert (tmp_path / "bucket" / "train.log").read_text() == "start\n" * starts


@pytest.mark.parametrize("code", [1, 4])
def test_a_spot_run_with_a_mistake_or_a_loss_that_is_not_finite_ends_for_good(spot, tmp_path, code):
    assert spot(f"echo start; exit {code}").returncode == code
    assert (tmp_path / "bucket" / "train.log").read_text() == "start\n"


def test_a_spot_tpu_is_asked_for_as_gcloud_wants_it():
    done = launch("spot.sh", *WORDS, BUCKET="gs://bucket/runs/", DRY_RUN="1", TYPE="v5litepod-16", NAME="pod")
    request, start = done.stdout.split("\n", 1)
    assert shlex.split(request)[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "pod"]
    assert {"--node-id=pod", "--accelerator-type=v5litepod-16", "--spot", "--zone=us-central1-a"} <= {
        *shlex.split(request)
    }
    said = subprocess.run(
        ["bash", "-c", start.split("set -euo")[0] + 'printf "%s\n" $BUCKET "${WORDS[@]}"'], capture_output=True
    )
    assert said.stdout.decode().splitlines() == ["gs://bucket/runs", *WORDS]


def test_skypilot_starts_a_process_on_each_machine(tmp_path):
    task = yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/usr/bin/env bash\necho $JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID "$@"\n')
    python.chmod(0o755)
    said = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    environment = os.environ | said | {name: task["envs"][name] for name in ("NAME", "WORDS")}
    done = subprocess.run(["bash", "-c", task["run"]], env=environment, cwd=tmp_path, capture_output=True, text=True)
    expected = "10.0.0.1:8476 2 1 -m resnet_flax.main --config=configs/preact.py --workdir=/runs/resnet-flax\n"
    assert done.stdout == expected, done.stderr
    assert task["file_mounts"]["/runs"]["name"] == "${BUCKET}"
    assert task["resources"]["job_recovery"] == {"max_restarts_on_errors": 3}  # whatever the exit code


def test_local_exits_with_the_code_of_the_first_process_that_failed(monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *handler: None)  # of this process, for all tests to come
    assert local.main(["2", "--config=nothing.py"]) == 1
