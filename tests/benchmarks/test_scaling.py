"""A step on many chips is predicted from the programs for one and for several, by the formula that is written down."""

import pytest

from benchmarks import scaling
from resnet_flax.errors import UserError


def line(target: str, chips: int, batch: int = 32, kernels: int = 100, **found) -> dict:
    case = {"target": target, "recipe": "preact", "batch": batch, "parallel": "jit", "changes": []}
    collectives = {"all-reduce bf16": [2, 9.0], "all-reduce f32": [1, 1.0]} if chips > 1 else {}
    gflop = 0.79 * batch / chips
    numbers = {"kernels": kernels, "chips": chips, "GFLOP": gflop, "collectives": collectives}
    return {"case": case, "found": numbers | {"MB": 40 + 8.6 * batch / chips} | found}


def gpus() -> scaling.Program:
    [program] = scaling.programs([line("h200", 1), line("h200:2", 2), line("h200:8", 8, kernels=120)])
    return program


def test_a_step_takes_what_the_formula_says():
    program = gpus()
    assert program.seconds(1, 32) == pytest.approx(100 * 2.5e-6)  # launches
    assert program.compute(1, 512) == pytest.approx((40e6 + 8.6e6 * 512) / 4.3e12)  # bytes
    ring = 3.6e-6 + 2 * 7 * 0.47e-6
    assert program.communicate(8) == pytest.approx(3 * ring + 2 * 7 / 8 * 10e6 / 450e9)
    assert program.seconds(8, 4) == pytest.approx(120 * 2.5e-6 + program.communicate(8))


@pytest.mark.parametrize(
    ("chips", "hops", "bandwidth"), [(4, 2, 100e9), (16, 6, 100e9), (128, 7 + 8, 200e9), (256, 16, 200e9)]
)
def test_chips_of_a_tpu_pass_sums_along_both_axes_and_back(chips, hops, bandwidth):
    assert scaling.link("v5e", chips) == pytest.approx((2 * hops * 1e-6, bandwidth))


def test_machines_sum_by_a_tree_where_that_takes_fewer_hops():
    assert scaling.start("tree", 64) < scaling.start("ring", 64)
    assert scaling.link("h200", 64) == (scaling.start("tree", 64), 8 * 50e9)


def test_efficiency_is_relative_to_one_chip_and_a_batch_is_not_divided_further_than_it_goes():
    program = gpus()
    rows = {int(row[0]): row for row in scaling.rows(program)}
    assert rows[1][3] == "100%" and rows[1][4:][0] == "32"
    weak = program.seconds(1, 32) / program.seconds(8, 32)
    strong = program.seconds(1, 32) / 8 / program.seconds(8, 4)
    assert rows[8][3] == f"{weak:.0%}" and rows[8][6] == f"{strong:.0%}"
    assert rows[32][4] == "1" and rows[64][4:] == ["", "", ""]
    steps = {chips: float(row[5]) for chips, row in rows.items() if row[5]}
    assert scaling.fastest(program) == 1 == min(steps, key=steps.__getitem__)


def test_collectives_that_depend_on_the_number_of_chips_are_not_extrapolated():
    other = line("h200:8", 8, collectives={"all-reduce f32": [4, 10.0]})
    with pytest.raises(UserError, match="h200 preact: collectives depend on the chips"):
        scaling.programs([line("h200", 1), line("h200:2", 2), other])


def test_a_table_says_what_it_was_compiled_for():
    changed = line("h200:4", 4)
    changed["case"]["changes"] = ["--config.model.widths=(4,)"]
    text = scaling.tables([line("h200", 1), line("h200:2", 2), line("h200:8", 8), line("v5e:1x1", 1), changed])
    assert text.startswith("preact on H200, batch 32: 3 collectives of 10.0 MB in all, as compiled for 2 and 8 chips.")
    assert "Splitting this batch is not worthwhile." in text
    assert "v5e" not in text
