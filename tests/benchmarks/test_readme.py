"""README says what the results say, and of each number on what it was measured."""

import importlib
import json
import re

from benchmarks import readme, recipes


def test_readme_has_the_numbers_of_the_results():
    text = readme.README.read_text()
    assert readme.updated(text) == text, "python -m benchmarks.readme writes them"


def test_every_journal_has_its_table(tmp_path):
    made = {"device": "1 x somewhat", "date": "2026-11-21", "versions": {"jax": "1.2"}}
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
        rows = [
            {
                "case": case,
                "found": {"images_per_second": speed, "percent_of_limits": {"A": 1.2, "C": 3.4}},
                "made": made,
            }
            for case, speed in found
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = readme.numbers(tmp_path)
    assert "1 x somewhat, jax 1.2, 2026-11-21:" in text
    assert "| preact | 32 | bfloat16 | 20,000 | 30,000 | 40,000 | 1 / 3 |" in text
    assert "| single, 1 a dispatch | looped, 9 a dispatch |" in text
    assert "| preact | 32 | bfloat16 | 10,000 | 20,000 |" in text
    assert "| preact | 32 | 1,000 | 1,002 |\n" in text
    assert "99,999" not in text


def test_commands_of_the_readme_are_benchmarks():
    names = re.findall(r"`python -m (benchmarks\.\w+)`", readme.README.read_text().replace("\n", " "))
    stages = re.findall(r"^stage \d+ (\w+)", (recipes.ROOT / "benchmarks" / "gpu.sh").read_text(), re.MULTILINE)
    assert len(names) > 5 and len(stages) > 4
    for name in {*names, *(f"benchmarks.{stage}" for stage in stages)}:
        assert importlib.util.find_spec(name), name
