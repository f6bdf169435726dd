"""Ablations: all changes with one seed before the next, no run twice, and their differences paired by seed."""

import json

import pytest

from benchmarks import ablation, recipes
from resnet_flax.errors import UserError

MIXUP, SMOOTH = "--config.train.mixup=0.2", "--config.train.label_smoothing=0 --config.train.epochs=9"
SHARED = ("--config.train.epochs=4",)


def test_runs_are_compared_on_images_held_out_of_training_and_never_on_the_test_split():
    fast = recipes.config("preact:fast", ablation.changes_of("preact:fast", SMOOTH, SHARED))
    assert (fast.data.train, fast.data.validation, fast.data.test) == ("train[:90%]", "train[90%:]", "")
    assert (fast.train.epochs, fast.train.label_smoothing) == (9, 0)
    own = recipes.config("preact", ablation.changes_of("preact", "", ()))
    assert (own.data.train, own.data.validation, own.data.test) == ("train[:80%]", "train[80%:]", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("mixup=0.2", "a change is --config.FIELD=VALUE, or several in quotes: what is 'mixup=0.2'?"),
        ("--config.train.mixupp=0.2", "did you mean 'train.mixup'?"),
        ("--config.data.validation=", "there is nothing to compare the runs on"),
    ],
)
def test_a_change_that_cannot_be_compared_is_refused(change, message):
    with pytest.raises(UserError) as raised:
        ablation.changes_of("preact:fast", change, ())
    assert message in str(raised.value)


def found(accuracy: float, seconds: float) -> dict:
    return {"accuracy": accuracy, "loss": 1.0, "training_seconds": seconds}


def line(case: dict, accuracy: float, seconds: float, load: float = 0.5) -> dict:
    return {"case": case, "found": found(accuracy, seconds), "made": {"load": load, "cores": 2}}


def test_differences_are_paired_by_seed_with_students_interval():
    base, mixed, others = (0.90, 0.92, 0.91), (0.91, 0.935, 0.915), (0.5,)
    lines = [
        line(ablation.case_of("preact", change, SHARED, seed), accuracy, seconds)
        for change, seconds, some in (("", 100.0, base), (MIXUP, 150.0, mixed), (SMOOTH, 90.0, others))
        for seed, accuracy in enumerate(some)
    ]
    lines += [line(ablation.case_of("speed94", MIXUP, SHARED, 0), 0.1, 1.0)]
    lines += [line(ablation.case_of("preact", MIXUP, (), 0), 0.1, 1.0)]
    _, _, *rows = (
        ablation.compared(lines, "preact", SHARED, ["", MIXUP, SMOOTH, "--config.seed=1"]).strip().splitlines()
    )
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    half = 4.3027 * 0.5 / 3**0.5  # t for two degrees of freedom; 1.0, 1.5 and 0.5 have a standard deviation of 0.5
    assert cells[0] == ["none (preact)", "91.00 ± 1.00", "", "", "3", "2 min", "1.00x"]
    assert cells[1] == [
        f"`{MIXUP}`",
        "92.00 ± 1.32",
        "+1.00",
        f"{1 - half:+.2f} to {1 + half:+.2f}",
        "3",
        "2 min",
        "1.50x",
    ]
    assert cells[2] == [f"`{SMOOTH}`", "50.00", "-40.00", "", "1", "90 s", "0.90x"]
    assert cells[3][4] == "0"
    assert ablation.row("--config.data.policy=flip|normalize(half)", "preact", {})[0].count(r"\|") == 1


def test_a_run_that_diverged_is_a_result_without_an_accuracy(tmp_path, monkeypatch, capsys):
    words = ["--config.train.epochs=1", "--seeds=1", f"--output={tmp_path}", f"--workdir={tmp_path}"]
    wild = "--config.optimizer.learning_rate=1e30 --config.optimizer.name=sgd"
    monkeypatch.setattr("sys.argv", ["ablation", "--base=quickstart", f"--change={wild}", *words])
    assert ablation.main() == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| none", "| `"))]
    assert rows[1].split("|")[1].strip() == f"`{wild}`: 1 of 1 diverged, first in epoch 1"
    assert rows[1].split("|")[2].strip() == "" and rows[0].split("|")[2].strip() != ""
    found = [json.loads(line)["found"] for line in (tmp_path / "ablation.jsonl").read_text().splitlines()]
    assert "accuracy" in found[0] and found[1] == {"diverged_in_epoch": 1}


def test_a_seed_that_diverged_is_not_in_the_mean():
    lines = [line(ablation.case_of("preact", change, (), 0), 0.5, 60.0) for change in ("", MIXUP)]
    for change, seed in (("", 1), ("", 2), (MIXUP, 1), (MIXUP, 2)):
        lines.append(line(ablation.case_of("preact", change, (), seed), 0.7, 60.0))
    lines[2]["found"] = lines[-1]["found"] = {"diverged_in_epoch": 3}
    base, change = ablation.compared(lines, "preact", (), ["", MIXUP]).strip().splitlines()[2:]
    assert base.startswith("| none (preact): 1 of 3 diverged, first in epoch 3 | 60.00 ± 14.14 |")
    assert change.startswith(f"| `{MIXUP}`: 1 of 3 diverged, first in epoch 3 | 50.00 | +0.00 |")


def test_times_on_a_machine_that_was_busy_are_left_out():
    lines = [line(ablation.case_of("preact", change, (), 0), 0.5, 60.0, load=2.1) for change in ("", MIXUP)]
    assert "time" not in ablation.compared(lines, "preact", (), ["", MIXUP])
    lines[0]["made"]["load"] = lines[1]["made"]["load"] = 2.0
    assert "| 60 s | 1.00x |" in ablation.compared(lines, "preact", (), ["", MIXUP])


def test_documents_have_a_table_for_each_recipe_and_what_applies_to_all_its_rows():
    cases = [("preact:fast", ""), ("preact:fast", MIXUP), ("speed94", ""), ("preact:fast", SMOOTH)]
    lines = [
        line(ablation.case_of(base, change, SHARED if base != "speed94" else (), 0), 0.5, 60.0)
        for base, change in cases
    ]
    first, rows, second, other = ablation.tables(lines).strip().split("\n\n")
    assert (first, second) == (f"`preact:fast {SHARED[0]}`:", "`speed94`:")
    assert [row.split("|")[1].strip() for row in rows.splitlines()[2:]] == [
        "none (preact:fast)",
        f"`{MIXUP}`",
        f"`{SMOOTH}`",
    ]
    assert len(other.splitlines()) == 3


def test_seeds_are_interleaved_and_a_finished_run_is_not_repeated(tmp_path, monkeypatch, capsys):
    trained = []

    def fake_run(case, workdirs):
        trained.append((case["change"], case["seed"]))
        return (143, {}) if len(trained) == 4 else (0, found(0.9 + 0.01 * len(trained), 10.0))

    monkeypatch.setattr(ablation, "run", fake_run)
    words = ["ablation", "--base=quickstart", f"--change={MIXUP}", f"--change={SMOOTH}", "--seeds=2", *SHARED]
    monkeypatch.setattr("sys.argv", [*words, f"--output={tmp_path}"])
    assert ablation.main() == 143
    rows = [(change, seed) for seed in (0, 1) for change in ("", MIXUP, SMOOTH)]
    assert trained == rows[:4]
    assert ablation.main() == 0
    assert trained == [*rows[:4], *rows[3:]]
    lines = [json.loads(line) for line in (tmp_path / "ablation.jsonl").read_text().splitlines()]
    assert [(line["case"]["change"], line["case"]["seed"]) for line in lines] == rows
    assert "| none (quickstart) | " in capsys.readouterr().out
