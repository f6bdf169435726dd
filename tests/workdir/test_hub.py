"""Networks go to the Hugging Face Hub and come back, here to a stand-in that speaks its HTTP."""

import base64
import hashlib
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from ml_collections import FrozenConfigDict

import resnet_flax as rf
from resnet_flax.config.defaults import changed, get_config
from resnet_flax.errors import Damaged
from resnet_flax.main import main
from resnet_flax.report.card import front_matter
from resnet_flax.workdir import hub
from resnet_flax.workdir.results import read_results

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)


class Hub(BaseHTTPRequestHandler):
    """The Hub as far as downloads and uploads need it; `repositories` has the files of each, by their names."""

    repositories: dict[str, dict[str, bytes]]
    sizes: dict[str, int]  # that a file claims to have

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+|/tree/[^/]+)?", path):
            files = self.repositories.get(found[1])
            if files is None:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            tree = [
                {"type": "file", "path": name, "size": self.sizes.get(name, len(content)), "oid": digest(content)}
                for name, content in files.items()
            ]
            if "/tree/" in path:
                return self.answer_json(tree)
            listed = [{"rfilename": entry["path"], "size": entry["size"]} for entry in tree]
            return self.answer_json({"id": found[1], "sha": commit_of(files), "siblings": listed})
        owner, name, _, _, file = path.strip("/").split("/", 4)
        content = self.repositories[f"{owner}/{name}"][file]
        commit = commit_of(self.repositories[f"{owner}/{name}"])
        self.answer(200, content, {"ETag": f'"{digest(content)}"', "X-Repo-Commit": commit})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}"
            self.repositories.setdefault(repository, {})
            return self.answer_json({"url": f"http://{self.headers['Host']}/{repository}", "name": repository})
        if self.path == "/api/validate-yaml":
            valid = isinstance(yaml.safe_load(json.loads(body)["content"].split("---\n")[1]), dict)
            return self.answer_json({"errors": [] if valid else [{"message": "no metadata"}], "warnings": []})
        (repository,) = re.findall(r"/api/models/([^/]+/[^/]+)/", self.path)
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer_json({"files": modes})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.repositories[repository][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.answer_json(
            {
                "success": True,
                "commitUrl": f"http://{self.headers['Host']}/{repository}/commit/{'0' * 40}",
                "commitOid": "0" * 40,
            }
        )

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        pass


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def commit_of(files: dict[str, bytes]) -> str:
    return digest("".join(map(digest, files.values())).encode())


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Iterator[ThreadingHTTPServer]:
    """The library of the Hub, which reads its environment when it is imported, talking to a stand-in."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path_factory.mktemp("hub")),
        "HF_TOKEN": "hf_of_the_tests",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    pytest.importorskip("huggingface_hub", reason="needs '.[hub]', which '.[dev]' has")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def repositories(library, monkeypatch) -> dict[str, dict[str, bytes]]:
    monkeypatch.setattr(Hub, "repositories", {}, raising=False)
    monkeypatch.setattr(Hub, "sizes", {}, raising=False)
    return Hub.repositories


@pytest.fixture(scope="module")
def exported(small_runs, tmp_path_factory) -> Path:
    """A folder that `export --format=hub` wrote."""
    folder = tmp_path_factory.mktemp("exported")
    assert main(["export", f"--workdir={small_runs[0]}", "--format=hub", f"--output={folder}"]) == 0
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_exported_folder_is_loaded_with_its_results(exported, small_runs):
    assert sorted(files_of(exported)) == ["README.md", "config.json", "model.safetensors", "results.json"]
    there, here = rf.load(exported), rf.load(small_runs[0])
    np.testing.assert_array_equal(there.predict(IMAGES), here.predict(IMAGES))
    assert there.config == here.config and here.results.items() <= there.results.items()
    assert there.results["sha256"] == hashlib.sha256((exported / "model.safetensors").read_bytes()).hexdigest()


def test_the_card_says_what_the_run_measured(exported, small_runs):
    card, results = (exported / "README.md").read_text(), rf.load(small_runs[0]).results
    _, front, text = card.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["library_name"] == "resnet_flax" and fields["pipeline_tag"] == "image-classification"
    (found,) = fields["model-index"][0]["results"]
    assert found["metrics"] == [{"type": "accuracy", "value": results["test_accuracy"]}] and "license" not in fields
    assert f"| test accuracy | {results['test_accuracy']:.2%} |" in text
    assert "the only one that was trained" not in text and "No licence has been chosen for these weights yet" in text
    assert "| command | python -m resnet\\_flax.main --config=quickstart " in text
    for title in ("Training", "Accuracy", "Most frequent confusions", "Classes", "Calibration", "Limits", "Files"):
        assert f"\n## {title}\n" in text
    for name in ("model.safetensors", "config.json", "results.json"):
        content = (exported / name).read_bytes()
        assert f"{len(content):,} | {hashlib.sha256(content).hexdigest()} |" in text


def test_a_card_names_the_split_and_no_public_dataset_for_ones_own_images(tmp_path):
    config = FrozenConfigDict(get_config())
    results = {"test_accuracy": 0.5}
    assert '"uoft-cs/cifar10", "split": "test[:100]"' in front_matter(
        changed(config, {"data.name": "cifar10", "data.test": "test[:100]"}), results, ""
    )
    assert '"name": "digits", "type": "digits"' in front_matter(changed(config, {"data.name": "digits"}), results, "")
    np.save(tmp_path / "train_images.npy", np.zeros((4, 32, 32, 3), np.uint8))
    own = changed(config, {"data.name": "cifar10", "data.dir": str(tmp_path), "data.test": "train[90%:]"})
    assert "uoft-cs" not in front_matter(own, results, "")


def test_a_card_states_the_seeds_beside_its_run_and_their_spread(small_runs, tmp_path):
    for seed, run in enumerate(small_runs):
        shutil.copytree(run, tmp_path / f"seed{seed}")
    statistics = {"test_accuracy": {"mean": 0.5, "std": 0.01}}
    results = read_results(small_runs[0])
    for listed, diverged, rows in (
        ({"0": results, "1": {}}, [], ["| seeds trained | 2 |", "| 50.00% ± 1.00%, mean and standard deviation |"]),
        ({"0": results, "1": {}}, [7], ["| seeds trained | 3, of which 1 diverged |", "without those that diverged |"]),
        ({"3": results, "1": {}}, [], []),  # another study
        ({"0": results | {"epochs": 1}, "1": {}}, [], []),  # before the run was extended
    ):
        found = {"statistics": statistics, "results": listed, "diverged": diverged}
        (tmp_path / "seeds.json").write_text(json.dumps(found))
        assert main(["export", f"--workdir={tmp_path}/seed0", "--format=hub"]) == 0
        card = (tmp_path / "seed0" / "hub" / "README.md").read_text()
        assert all(row in card for row in rows) and ("seeds trained" in card) == bool(rows)
        assert "the only one that was trained" not in card and "weights of seed 0.\n" in card


def test_nothing_exported_names_a_folder_of_this_machine(small_runs, tmp_path):
    workdir = shutil.copytree(small_runs[0], tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    names = {"init_from": "/home/secret/start.pt", "teacher": "hf:me/net,../secret/taught, preact"}
    config["train"] |= names
    (workdir / "config.json").write_text(json.dumps(config))
    results = json.loads((workdir / "report" / "results.json").read_text())
    results["init"] = {"weights": names["init_from"], "sha256": "0123abc" * 9}
    (workdir / "report" / "results.json").write_text(json.dumps(results))
    assert main(["export", f"--workdir={workdir}", "--format=hub"]) == 0
    files = files_of(workdir / "hub")
    assert not [name for name, content in files.items() if b"secret" in content]
    exported = json.loads(files["results.json"])
    assert exported["init"] == results["init"] | {"weights": "start.pt"}
    assert "--config.train.init_from=start.pt --config.train.teacher=hf:me/net,taught,preact" in exported["command"]
    assert "start.pt, SHA-256 0123abc0123a" in files["README.md"].decode()


def test_names_of_classes_stay_text_in_a_card():
    from resnet_flax.report.card import plain, table

    assert plain("a|b\n<script>[x](y)") == "a\\|b\\\\n\\<script\\>\\[x\\](y)"
    assert table(("a", "b"), [("x|y", 1)]) == "| a | b |\n| :-- | :-- |\n| x\\|y | 1 |\n"


def test_a_card_needs_a_finished_run(small_runs, tmp_path, capsys):
    workdir = shutil.copytree(small_runs[0], tmp_path / "run")
    shutil.rmtree(workdir / "report")
    assert main(["export", f"--workdir={workdir}", "--format=hub"]) == 1
    assert capsys.readouterr().err.endswith("is not a finished run, which a model card needs: train it to the end\n")
    assert not (workdir / "hub").exists()


def test_a_pushed_network_comes_back(repositories, small_runs, tmp_path, monkeypatch, capsys):
    output = tmp_path / "folder"
    assert main(["export", f"--workdir={small_runs[0]}", "--push=me/net", f"--output={output}"]) == 0
    assert capsys.readouterr().out.endswith(f"uploaded to {os.environ['HF_ENDPOINT']}/me/net\n")
    assert repositories["me/net"] == files_of(output)
    np.testing.assert_array_equal(rf.load("hf:me/net").predict(IMAGES), rf.load(small_runs[0]).predict(IMAGES))
    np.save(tmp_path / "images.npy", IMAGES)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["predict", "images.npy", "--workdir=hf:me/net"]) == 0
    assert capsys.readouterr().out.startswith("network: hf:me/net, test accuracy ")


def test_without_a_connection_the_cache_answers(repositories, exported, monkeypatch):
    repositories["me/cached"] = files_of(exported)
    first = rf.load("hf:me/cached")
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    np.testing.assert_array_equal(rf.load("hf:me/cached").predict(IMAGES), first.predict(IMAGES))
    with pytest.raises(rf.UserError, match=r"^the Hub cannot be reached \(.*\), and me/other is not in its cache$"):
        rf.load("hf:me/other")


def test_what_is_wrong_with_a_repository_is_one_line(repositories, exported):
    with pytest.raises(rf.UserError, match=r"^there is no me/nothing on the Hub, or it is private: if so, log in with"):
        rf.load("hf:me/nothing")
    repositories["me/text"] = {"README.md": b"text"}
    with pytest.raises(rf.UserError, match=r"it has no model\.safetensors and no results\.json$"):
        rf.load("hf:me/text")
    repositories["me/changed"] = files_of(exported) | {"model.safetensors": b"\0" * 100}
    with pytest.raises(Damaged, match="does not match its checksum"):
        rf.load("hf:me/changed")
    repositories["me/large"] = files_of(exported)
    Hub.sizes["model.safetensors"] = 2**40
    with pytest.raises(rf.UserError, match=r"^hf:me/large: model\.safetensors has 1,099,511,627,776 bytes, more than"):
        rf.load("hf:me/large")


def test_a_repository_has_an_owner_and_a_name():
    for name in ("hf:net", "hf:", "hf:a/b/c", "hf:../net", "hf:a/b c"):
        with pytest.raises(rf.UserError, match="a repository of the Hub is OWNER/NAME, not "):
            rf.load(name)


def test_without_the_package_one_line_says_what_to_install(small_runs, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = "hf:me/net needs huggingface_hub: install it (pip install -c constraints.txt -e '.[hub]')"
    with pytest.raises(rf.UserError) as refusal:
        rf.load("hf:me/net")
    assert str(refusal.value) == message
    assert main(["export", f"--workdir={small_runs[0]}", "--push=me/net"]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_push_of_another_format_is_refused(small_runs, monkeypatch, capsys):
    monkeypatch.setattr(hub, "library", lambda repository: None)
    assert main(["export", f"--workdir={small_runs[0]}", "--push=me/net", "--format=torch"]) == 1
    assert "--push uploads what --format=hub writes, not --format=torch" in capsys.readouterr().err
