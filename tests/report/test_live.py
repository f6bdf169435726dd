"""The page that follows runs while they train: every state of a run, over HTTP and in a browser."""

import fcntl
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from resnet_flax.main import main
from resnet_flax.report.live import Handler, Pages, Server, find_runs
from resnet_flax.training import progress
from resnet_flax.training.step import Totals
from resnet_flax.training.trackers import Tracking
from resnet_flax.workdir.folder import is_locked, lock_workdir
from resnet_flax.workdir.history import read_csv
from resnet_flax.workdir.live import PROGRESS_FIELDS, read_live, remove_failure, write_progress
from tests.report.test_page import BROWSER, Tags, look

ROOT = Path(__file__).parents[2]


@pytest.fixture
def unfinished(small_runs, tmp_path) -> Path:
    """A run of four epochs that was stopped before it was evaluated."""
    workdir = tmp_path / "runs" / "<b>"
    shutil.copytree(small_runs[0], workdir, ignore=shutil.ignore_patterns("report", "checkpoints"))
    return workdir


def text_of(page) -> str:
    """The words that a page displays."""
    source = page.content.decode()
    Tags(source)
    return " ".join(unescape(re.sub("<style>.*?</style>|<[^>]+>", " ", source, flags=re.DOTALL)).split())


def write_within_epoch(workdir: Path, epoch: int) -> None:
    values = (epoch, 3, 16, 1.25, 0.5, 0.01, 1234.5, 75.2)
    write_progress(workdir, dict(zip(PROGRESS_FIELDS, values, strict=True)))


def test_a_run_in_training_shows_how_far_it_is_how_fast_and_how_long_it_still_takes(unfinished):
    pages = Pages([unfinished])
    with lock_workdir(unfinished):
        before = text_of(pages.at("/"))
        write_within_epoch(unfinished, 5)
        page = pages.at("/")
    assert "epochs done 4 of 4 evaluating" in before and "time left -" in before and "mixed" not in before
    text = text_of(page)
    assert "epoch 5, step 3 of 16" in text and "images per second 1,234" in text
    assert "time left 1:15" in text or "time left 1:14" in text
    assert "training accuracy 50.00% this epoch so far" in text
    best = max(row["val_accuracy"] for row in read_csv(unfinished / "metrics.csv"))
    assert f"best validation accuracy {best:.2%}" in text
    assert page.content.count(b"<svg") == 2 and not page.is_last
    assert "<title>&lt;b&gt;</title>" in page.content.decode()


def test_accuracy_on_mixed_images_is_called_that(unfinished):
    config = unfinished / "config.json"
    stored = json.loads(config.read_text())
    config.write_text(json.dumps(stored | {"train": stored["train"] | {"cutmix": 1.0}}))
    assert re.search(r"training accuracy [\d.]+% epoch 4, mixed images", text_of(Pages([unfinished]).at("/")))
    assert re.search(r"[\d.]+% \(mixed images\)", text_of(Pages([unfinished.parent]).at("/")))


def test_a_run_that_has_not_begun_was_stopped_or_has_failed_says_so(unfinished, tmp_path):
    assert "There is no run in this folder yet" in text_of(Pages([tmp_path / "nowhere"]).at("/"))
    pages = Pages([unfinished])
    write_within_epoch(unfinished, 5)  # left by a process that was killed
    assert "Stopped: the same command resumes it." in text_of(pages.at("/"))
    assert "this epoch so far" not in text_of(pages.at("/"))
    details = {"what": "the loss or a gradient", "step": 70, "epoch": 5}
    (unfinished / "nonfinite.json").write_text(json.dumps(details))
    assert "Failed: the loss or a gradient is not finite at step 70, epoch 5." in text_of(pages.at("/"))
    remove_failure(unfinished)  # as the next attempt does
    assert read_live(unfinished).state == "stopped"
    (unfinished / "metrics.csv").unlink()
    assert "epochs done 0 of 4" in text_of(pages.at("/"))


DAMAGED = ["config.json", "metrics.csv", "progress.json", "nonfinite.json", "report/results.json"]


def test_a_page_about_damaged_files_is_a_page(unfinished, monkeypatch):
    monkeypatch.setattr("resnet_flax.report.live.svg", lambda figure: "<svg></svg>")
    single, several = Pages([unfinished]), Pages([unfinished.parent])
    (unfinished / "report").mkdir()
    for path in (unfinished / name for name in DAMAGED):
        before = path.read_bytes() if path.exists() else b""
        for content in ("", "[]", '{"step": "x", "what": 1, "train": 0}', "\0" * 100, "[" * 100_000):
            path.write_text(content)
            with lock_workdir(unfinished):
                assert text_of(single.at("/")) and text_of(several.at("/"))
            assert text_of(single.at("/"))
        path.write_bytes(before)


def test_a_finished_run_is_its_report(small_runs, unfinished):
    page = Pages([small_runs[0]]).at("/")
    assert page == ((small_runs[0] / "report" / "report.html").read_bytes(), True)
    (unfinished / "report").mkdir()
    shutil.copy(small_runs[0] / "report" / "results.json", unfinished / "report")
    waiting = Pages([unfinished]).at("/")
    assert "its report appears here once it is written" in text_of(waiting) and not waiting.is_last
    shutil.copy(small_runs[1] / "report" / "report.html", unfinished / "report")  # of other results
    assert not Pages([unfinished]).at("/").is_last


def test_several_runs_are_one_list_with_those_in_training_first(small_runs, unfinished):
    folder = unfinished.parent
    shutil.copytree(small_runs[1], folder / "trials" / "lr=0.1")
    (folder / "checkpoints").mkdir()
    shutil.copy(unfinished / "config.json", folder / "checkpoints")
    pages = Pages([folder])
    assert find_runs([folder]) == [unfinished, folder / "trials" / "lr=0.1"]
    with lock_workdir(folder / "trials" / "lr=0.1"):
        shutil.rmtree(folder / "trials" / "lr=0.1" / "report")
        page = pages.at("/")
    assert "2 runs 1 training, 1 stopped." in text_of(page)
    links = [link for link in Tags(page.content.decode()).loaded if link.startswith("/run?")]
    assert [link.rpartition("%2F")[2] for link in links] == ["lr%3D0.1", "%3Cb%3E"]
    assert page.content.count(b"<svg") == 2
    assert "Stopped" in text_of(pages.at(links[1]))
    for unknown in ("/run?", "/run?..%2F..%2Fetc", "/favicon.ico", f"/run?{folder}/.lock"):
        assert pages.at(unknown) is None


def test_a_chart_is_drawn_again_only_if_there_is_a_new_epoch(unfinished, monkeypatch):
    pages, drawn = Pages([unfinished]), []
    monkeypatch.setattr("resnet_flax.report.live.svg", lambda figure: drawn.append(figure) or "<svg></svg>")
    for _ in range(3):
        pages.at("/")
    assert len(drawn) == 2
    rows = (unfinished / "metrics.csv").read_text().splitlines(keepends=True)
    (unfinished / "metrics.csv").write_text("".join(rows[:-1]))
    pages.at("/")
    assert len(drawn) == 4


def test_a_look_does_not_keep_a_run_from_starting(unfinished, monkeypatch):
    """The look holds the lock for a moment, in which the run tries for the first time."""
    with lock_workdir(unfinished):
        assert is_locked(unfinished)
    assert not is_locked(unfinished)
    with open(unfinished / ".lock") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr("resnet_flax.workdir.folder.time.sleep", lambda seconds: looking.close())
        with lock_workdir(unfinished):
            assert looking.closed


def test_progress_is_written_now_and_then_and_removed_at_the_end(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    totals = Totals.zero().replace(count=8)
    shown = []
    monkeypatch.setattr(progress, "write_progress", lambda folder, values: shown.append(values))
    with progress.Progress(Tracking(tmp_path, {}, []), epochs=2, steps_per_epoch=10, batch_size=8) as one:
        one.start_epoch(0)
        one.start_clock(0)
        for step, seconds in enumerate((0.1, 1, 1, 1, 1.5), 1):
            clock[0] += seconds
            one.show(step, totals, 0.1)
        (tmp_path / "progress.json").write_text("{}")
    assert [values["step"] for values in shown] == [2, 5]
    assert shown[1]["images_per_second"] == pytest.approx(5 * 8 / 4.6)
    assert shown[1]["seconds_left"] == pytest.approx(15 * 4.6 / 5)
    assert not (tmp_path / "progress.json").exists()


@pytest.fixture
def server(unfinished) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.pages = Pages([unfinished])
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def answer(port: int, path: str = "/", host: str = "") -> tuple[int, dict, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": host or f"localhost:{port}"})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, dict(response.headers), content


def test_the_page_loads_itself_again_and_only_this_machine_is_answered(server, capfd):
    status, headers, content = answer(server.server_port)
    assert status == 200 and headers["Refresh"] == "3" and content.endswith(b"</html>\n")
    assert answer(server.server_port, "/nothing")[0] == 404
    assert answer(server.server_port, host=f"evil.example:{server.server_port}")[0] == 403
    assert answer(server.server_port, host="127.0.0.1:9")[0] == 200  # a port that SSH forwards
    with socket.create_connection(("127.0.0.1", server.server_port)):
        assert answer(server.server_port)[0] == 200  # a connection that says nothing keeps no other waiting
    assert capfd.readouterr() == ("", "")


def test_mistakes_about_the_port_are_one_line(server, capsys, unfinished):
    for port, message in {
        "70000": "--port must be from 0, for any free port, to 65535, not 70000",
        str(server.server_port): f"cannot serve on port {server.server_port}: Address already in use; choose another",
    }.items():
        assert main(["report", f"--workdir={unfinished}", "--watch", f"--port={port}"]) == 1
        assert capsys.readouterr().err.startswith(f"error: {message}")


def test_ctrl_c_ends_it_quietly_also_before_there_is_a_run(tmp_path):
    """Without a folder, those in ./runs are watched."""
    words = [sys.executable, "-m", "resnet_flax.main", "report", "--watch"]
    pipe, environment = subprocess.PIPE, os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True, env=environment) as started:
        assert started.stdout and started.stderr
        address = started.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        assert b"There is no run" in answer(int(address.rpartition(":")[2]))[2]
        started.send_signal(signal.SIGINT)
        assert (started.stdout.read(), started.stderr.read()) == ("", "")
    assert started.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium to look with")
def test_the_page_of_a_run_and_the_list_fit_a_phone(unfinished, small_runs, tmp_path):
    shutil.copytree(small_runs[1], unfinished.parent / "a-long-name-of-a-run-with-learning-rate=0.0003")
    with lock_workdir(unfinished):
        write_within_epoch(unfinished, 5)
        pages = [Pages([folder]).at("/").content.decode() for folder in (unfinished, unfinished.parent)]
    for page, dark in zip(pages, (True, False), strict=True):
        seen = look(page, 390, dark, tmp_path)
        background = "rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)"
        assert seen.pop("smallest") >= 9  # pixels
        assert seen == {"fits": True, "cut": [], "alone": False, "drawn": True, "back": background}
