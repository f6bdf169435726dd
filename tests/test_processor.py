"""Processors are named so that measurements on them can be compared."""

import pytest

from resnet_flax import processor
from resnet_flax.processor import described_processor, has_full_rate_avx512


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
    ("vendor", "family", "at_once"),
    [("AuthenticAMD", 25, False), ("AuthenticAMD", 26, True), ("GenuineIntel", 6, True)],
)
def test_avx512_in_halves_is_in_the_name(vendor, family, at_once, monkeypatch):
    described = described_processor(
        f"vendor_id\t: {vendor}\ncpu family\t: {family}\nmodel name\t: it\nflags\t\t: avx2 avx512f avx512_bf16\n"
    )
    assert described == f"it with {'' if at_once else 'half-rate '}AVX-512 and bfloat16"
    monkeypatch.setattr(processor, "processor_name", lambda: described)
    assert has_full_rate_avx512.__wrapped__() == at_once


@pytest.mark.parametrize("name", ["AMD EPYC with AVX2", "Apple M4", "x86_64"])
def test_other_processors_do_not_multiply_512_bits(name, monkeypatch):
    monkeypatch.setattr(processor, "processor_name", lambda: name)
    assert not has_full_rate_avx512.__wrapped__()
