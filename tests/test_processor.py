"""Processors are named so that measurements on them can be compared."""

import pytest

from resnet_flax import processor
from resnet_flax.processor import described_processor, has_avx512


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("fpu avx2 fma", "AMD EPYC with AVX2"),
        ("avx2 avx512f", "AMD EPYC with AVX-512"),
        ("avx2 avx512f avx512_bf16", "AMD EPYC with AVX-512 and bfloat16"),
        ("fpu", "AMD EPYC"),
    ],
)
def test_generations_of_a_processor_are_told_apart(flags, named):
    assert described_processor(f"processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\n") == named


@pytest.mark.parametrize(
    ("name", "has"), [("AMD EPYC with AVX-512 and bfloat16", True), ("AMD EPYC with AVX2", False), ("Apple M4", False)]
)
def test_avx512_is_in_the_name(name, has, monkeypatch):
    monkeypatch.setattr(processor, "processor_name", lambda: name)
    assert has_avx512.__wrapped__() == has
