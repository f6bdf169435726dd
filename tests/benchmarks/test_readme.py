"""README says what the results say, and of each number on what it was measured."""

import importlib
import json
import re

import pytest

from benchmarks import readme, recipes, runs, tables
from tests.benchmarks.test_runs import made


@pytest.mark.parametrize("path", readme.DOCUMENTS, ids=lambda path: path.name)
def test_documents_have_the_numbers_of_the_results(path):
    text = path.read_text()
    assert readme.updated(text) == text, "python -m benchmarks.readme writes them"


@pytest.mark.parametrize("path", readme.RECIPE_FILES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_reached(path):
    assert readme.DOCSTRING.search(path.read_text())
    assert readme.updated_recipe(path) == path.read_text(), "python -m benchmarks.readme writes it"


def test_every_part_is_in_one_document():
    text = "".join(path.read_text() for path in readme.DOCUMENTS)
    assert sorted(match[2] for match in readme.PART.finditer(text)) == sorted(readme.PARTS)


def test_what_is_not_measured_has_no_number(tmp_path):
    text = readme.overview(tmp_path)
    assert text.count("not yet measured |") == len(readme.OVERVIEW) == 16
    assert "| 93.41 % | not yet measured |" in text
    assert "| 91.8 %, 93.93 % in its log | not yet measured |" in text
    assert readme.measurements(tmp_path) == ""
    assert "This project: not yet measured." in readme.updated_recipe(readme.RECIPE_FILES[0], tmp_path)


def journal(folder, name: str, rows: list[tuple[dict, dict]], device: str = "1 x GPU") -> None:
    made = {"device": device, "date": "2026-11-21", "versions": {"jax": "1.2"}}
    lines = [json.dumps({"case": case, "found": found, "made": made}) + "\n" for case, found in rows]
    (folder / f"{name}.jsonl").write_text("".join(lines))


def test_overview_has_the_mean_over_seeds_of_unchanged_recipes(tmp_path):
    for seed, share in enumerate((0.905, 0.915)):
        runs.record(made(tmp_path / f"run{seed}", "preact:fast", share, seed=seed), tmp_path)
    runs.record(made(tmp_path / "short", "preact:fast", 0.1, **{"train.epochs": 1}), tmp_path)
    speed = {"target": "94", "recipe": "speed94", "epochs": 10, "seed": 0, "changes": []}
    journal(tmp_path, "speed", [(speed, {"accuracy": 0.9412, "tta_accuracy": 0.942, "seconds": 2.034})])
    text = readme.overview(tmp_path)
    assert "| 90.76 % | 91.00 ± 0.71 % (n = 2) | 1 | 50,000 | 50 min on an unnamed CPU |" in text
    assert "|  | 94.12 % in 2.03 s (n = 1, 1 x GPU) |" in text
    says = "This project: preact:fast 91.00 ± 0.71 % (n = 2, an unnamed CPU)."
    assert says in readme.updated_recipe(readme.ROOT / "configs" / "preact.py", tmp_path)
    assert "10.00% of 10,000 test images" in readme.measurements(tmp_path)


def test_columns_of_numbers_are_aligned_to_the_right_and_empty_ones_are_left_out():
    text = tables.table(["name", "count", "nothing", "note"], [["a", "1,000", "", "1 b"], ["b", "", "", "c"]])
    assert text.splitlines() == ["| name | count | note |", "|:--|--:|:--|", "| a | 1,000 | 1 b |", "| b |  | c |"]


def test_every_journal_has_its_table(tmp_path):
    part = {"recipe": "preact", "batch": 32, "changes": []}
    loops = [
        part | {"part": "loop", "dtype": "bfloat16", "way": way, "steps": n}
        for way, n in (("single", 1), ("looped", 9))
    ]
    cases = {
        "throughput": [
            *zip(loops, [10_000.4, 20_000.4], strict=True),
            (part | {"part": "step", "dtype": "bfloat16", "way": "single", "steps": 1}, 30_000),
            (part | {"part": "feed", "way": "single", "steps": 1}, 40_000),
            (loops[0] | {"changes": ["--config.model.blocks=(1,)"]}, 99_999),
        ],
        "step": [
            ({"network": "preact", "batch": 32, "variant": variant}, 1000 + index)
            for index, variant in enumerate(["jax float32", "torch float32", "torch float32 channels_last"])
        ],
    }
    for name, found in cases.items():
        limits = {"percent_of_limits": {"peak": 1.2, "roofline": 3.4}}
        journal(tmp_path, name, [(case, limits | {"images_per_second": speed}) for case, speed in found])
    text = readme.measurements(tmp_path)
    assert "On 1 x GPU, jax 1.2, 2026-11-21:" in text
    assert "| preact | 32 | bfloat16 | 20,000 | 30,000 | 40,000 | 1 / 3 |" in text
    assert "| single, 1 per dispatch | looped, 9 per dispatch |" in text
    assert "| preact | 32 | bfloat16 | 10,000 | 20,000 |" in text
    assert "| preact | 32 | 1,000 | 1,002 |\n" in text
    assert "99,999" not in text


def test_benchmarks_in_the_documentation_exist():
    text = (readme.ROOT / "docs" / "results.md").read_text()
    names = re.findall(r"`python -m (benchmarks\.\w+)", text)
    stages = re.findall(r"\bstage \d+ (\w+)", (recipes.ROOT / "benchmarks" / "gpu.sh").read_text(), re.MULTILINE)
    assert len(names) > 5 and len(stages) > 4
    for name in {*names, *(f"benchmarks.{stage}" for stage in stages)}:
        assert importlib.util.find_spec(name), name
