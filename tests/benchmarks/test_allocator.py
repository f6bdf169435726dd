"""The benchmark of the allocator counts what a process did while it trained."""

import json
import mmap
import os

from benchmarks import allocator


def test_each_way_but_ours_sets_an_option_of_malloc_and_so_keeps_ours_away():
    assert [way for way, tunables in allocator.WAYS.items() if "glibc.malloc" not in tunables] == ["kept"]


def test_a_round_counts_images_page_faults_and_the_peak():
    blocks = []

    def train() -> int:
        blocks.append(mmap.mmap(-1, 2**24))  # not from the heap, which may have room
        blocks[-1].write(os.urandom(2**24))
        return 4

    found = allocator.measure(train, 0.05)
    assert found["faults_per_image"] > 0 and found["kernel_ms_per_image"] > 0
    assert 0 < found["images_per_second"] <= 4 * len(blocks) / 0.05
    assert found["peak_mib"] > 16 * len(blocks)


def test_a_summary_has_medians_and_the_speed_of_every_round():
    rounds = [{"images_per_second": speed, "peak_mib": 3.0} for speed in (1.0, 5.0, 2.0)]
    expected = {"images_per_second": 2.0, "peak_mib": 3.0, "rounds": [1.0, 5.0, 2.0]}
    assert allocator.summary(rounds) == json.loads(json.dumps(expected))
