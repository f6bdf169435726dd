"""The program as a process: how it starts and ends, with Ctrl-C, without a terminal, a device or UTF-8."""

import os
import signal
import subprocess
import sys
import time
import weakref
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from jax.errors import JaxRuntimeError

from resnet_flax import __version__
from resnet_flax.main import main, repeat_lost_ctrl_c
from resnet_flax.verbs import VERBS

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-m", "resnet_flax.main"]
QUICKSTART = "--config=configs/quickstart.py"
TINY = [
    QUICKSTART,
    "--config.model.blocks=(1,)",
    "--config.model.widths=(4,)",
    "--config.data.train_examples=256",
    "--config.train.epochs=1",
    "--config.schedule.name=constant",
]
SMALL_RUN = [QUICKSTART, "--config.model.blocks=(1,1)", "--config.model.widths=(8,16)"]  # the network of small_runs
SUMMARY = ["summary", "--config=configs/resnet_443.py"]


def process(*words: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *words], **{"cwd": ROOT, "capture_output": True, "text": True} | options)


def test_a_mistake_ends_with_one_line_and_exit_code_1():
    done = process("--config=configs/nothing.py")
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no config file")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_crash_keeps_its_traceback_and_has_an_exit_code_of_its_own():
    code = "from resnet_flax import main; main.run_command = lambda argv: 1 / 0; main.console()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == os.EX_SOFTWARE == 70
    assert done.stderr.startswith("Traceback") and done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("error", [MemoryError(), JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore")])
def test_too_little_memory_is_one_line(error, monkeypatch, capsys):
    def exhausted(argv):
        raise error

    monkeypatch.setattr("resnet_flax.main.run_command", exhausted)
    assert main([]) == 1
    assert capsys.readouterr().err == (
        "error: there is not enough memory: close other programs, or use a device with more, such as the CPU "
        "(JAX_PLATFORMS=cpu)\n"
    )


def test_help_imports_nothing_that_takes_time():
    code = "import sys; from resnet_flax.main import main; code = main(['--help']); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_version_names_the_version_and_that_of_jax(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"resnet_flax {__version__}, jax {metadata.version('jax')}, ")


@pytest.mark.parametrize(
    "module",
    ["resnet_flax.text", "numpy", "jaxlib.xla_client", "jax.numpy", "flax.linen", "resnet_flax.training.train"],
)
def test_ctrl_c_while_modules_are_imported_ends_quietly(module, tmp_path):
    """-X importtime prints each module as soon as it is imported."""
    command = [sys.executable, "-X", "importtime", *PROGRAM[1:], *TINY, f"--workdir={tmp_path}"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stderr and started.stdout
        imported = iter(started.stderr.readline, "")
        assert any(line.split("|")[-1].strip() == module for line in imported)
        started.send_signal(signal.SIGINT)
        assert all(line.startswith("import time:") for line in imported)
        assert started.stdout.read() == ""
    assert started.returncode == 130


def test_ctrl_c_that_an_import_turns_into_another_error_is_still_one(monkeypatch, capsys):
    def interrupted(argv):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise ImportError("initialization failed") from interrupt

    monkeypatch.setattr("resnet_flax.main.run_command", interrupted)
    assert main([]) == 130
    assert capsys.readouterr().err == ""


def test_ctrl_c_in_a_callback_is_not_lost(monkeypatch, capsys):
    def interrupted(reference):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", repeat_lost_ctrl_c)
    referred = {1}
    reference = weakref.ref(referred, interrupted)
    with pytest.raises(KeyboardInterrupt):
        del referred
        time.sleep(60)
    assert reference() is None and capsys.readouterr().err == ""


def test_an_ignored_ctrl_c_stays_ignored():
    """As for a command that nohup or a shell has put into the background."""
    code = "import signal, os; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv({0!r}, {1!r})"
    command = [sys.executable, "-X", "importtime", *PROGRAM[1:], *SUMMARY]
    with subprocess.Popen(
        [sys.executable, "-c", code.format(sys.executable, command)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as started:
        assert started.stderr
        assert any(line.split("|")[-1].strip() == "numpy" for line in started.stderr)
        started.send_signal(signal.SIGINT)
        started.stderr.read()
    assert started.returncode == 0


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run `command` in bash, where "$@" is the program."""
    return subprocess.run(["bash", "-c", command, "-", *PROGRAM], cwd=ROOT, capture_output=True, text=True)


def test_output_that_nobody_reads_ends_the_program_quietly_with_the_code_of_a_broken_pipe():
    done = shell(f'"$@" {" ".join(SUMMARY)} | true; echo ${{PIPESTATUS[0]}}')
    assert (done.stdout, done.stderr) == ("141\n", "")
    done = shell('{ sleep 0.5; "$@" --help; } | true; echo ${PIPESTATUS[0]}')
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_output_that_cannot_be_written_is_an_error():
    done = shell('"$@" --help > /dev/full')
    assert (done.returncode, done.stderr) == (1, "error: No space left on device: <stdout>\n")


def test_a_training_goes_on_when_nobody_reads_its_output(tmp_path):
    with subprocess.Popen(
        [*PROGRAM, *TINY, f"--workdir={tmp_path}"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout and started.stderr
        started.stdout.close()
        assert started.stderr.read() == ""
    assert started.returncode == 141
    assert (tmp_path / "report" / "report.html").exists()


def test_a_training_with_closed_streams_writes_nothing_of_them_into_its_files(tmp_path):
    words = " ".join(f"'{word}'" for word in [*TINY, f"--workdir={tmp_path}"])
    done = shell(f'"$@" {words} <&- >&- 2>&-')
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / ".lock").read_text().startswith("process ")
    assert (tmp_path / "report" / "report.html").exists()


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def test_names_that_are_not_ascii_need_no_locale(tmp_path):
    workdir, classes = tmp_path / "\u00e9\u732b", tuple("0123456\u00e9\u732b9")
    words = [*TINY, f"--config.data.classes={classes}", f"--workdir={workdir}"]
    done = process(*words, env=os.environ | ASCII)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u732b" in done.stdout  # what stdout cannot encode is escaped
    assert sorted(path.name for path in tmp_path.iterdir()) == [workdir.name]
    done = process("evaluate", str(workdir))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\u732b" in done.stdout


def without_device(platform: str, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"JAX_PLATFORMS": platform}
    return subprocess.Popen(
        [*PROGRAM, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_missing_device_is_one_line_from_every_verb(small_runs, tmp_path):
    run, image, weights = small_runs[0], tmp_path / "image.npy", tmp_path / "weights.safetensors"
    np.save(image, np.zeros((1, 32, 32, 3), np.uint8))
    assert main(["export", f"--workdir={run}", f"--output={weights}"]) == 0
    commands = {
        "train": [*TINY, f"--workdir={tmp_path}/train"],
        "list": [],
        "summary": TINY,
        "sweep": [*TINY, f"--workdir={tmp_path}/sweep", "optimizer.learning_rate=0.1,0.2"],
        "report": [str(run)],
        "evaluate": [str(run)],
        "predict": [str(image), f"--workdir={run}"],
        "export": [f"--workdir={run}", f"--output={tmp_path}/more.npz"],
        "import-torch": [*SMALL_RUN, f"--file={weights}", f"--workdir={tmp_path}/imported"],
    }
    assert commands.keys() | {"preview", "completion"} == VERBS.keys()  # which compute nothing on a device
    processes = {verb: without_device("rocm", verb, *words) for verb, words in commands.items()}
    for verb, started in processes.items():
        _, err = started.communicate()
        assert err.startswith("error: JAX_PLATFORMS=rocm, but JAX finds only "), (verb, err)
        assert err.count("\n") == 1
        assert "pip install -c constraints.txt -e '.[cuda13]'" in err
        assert started.returncode == 1


@pytest.mark.parametrize("platform", ["cuda", "gpu", "tpu", "cpu,tpu", "nonsense"])
def test_every_name_of_a_missing_device_is_understood(platform):
    if Path("/dev/nvidiactl").exists() or Path("/dev/accel0").exists():
        pytest.skip("the device is there")
    _, err = without_device(platform, "summary", QUICKSTART).communicate()
    assert err.startswith(f"error: JAX_PLATFORMS={platform}, but JAX finds only cpu here")
    assert err.count("\n") == 1
