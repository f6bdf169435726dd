"""Tables in Markdown, and the text of numbers in them."""

import re
import statistics
from collections.abc import Sequence

from resnet_flax.studies.seeds import half_interval


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table without the columns that are empty; those of numbers are aligned to the right."""
    kept = [column for column in zip(header, *rows, strict=True) if any(column[1:])]
    numbers = [all(re.match(r"[+-]?\d|$", cell) for cell in column[1:]) for column in kept]
    rule = "|".join("--:" if number else ":--" for number in numbers)
    head, *body = [f"| {' | '.join(row)} |" for row in zip(*kept, strict=True)]
    return "\n".join([head, f"|{rule}|", *body, ""])


def spread(values: Sequence[float]) -> str:
    """Return the mean and, for several values, the standard deviation of the sample."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def difference(gaps: Sequence[float]) -> tuple[str, str]:
    """Return the mean of differences and, for several, Student's 95 % interval of it: ("-0.93", "-1.62 to -0.24")."""
    mean = statistics.mean(gaps)
    if len(gaps) == 1:
        return f"{mean:+.2f}", ""
    half = half_interval(gaps)
    return f"{mean:+.2f}", f"{mean - half:+.2f} to {mean + half:+.2f}"


def span(values: Sequence[int]) -> str:
    """Return "10", or "8 to 12" for several different values."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def minutes(seconds: float) -> str:
    """Return a time to two or three digits: "45 s", "56 min" or "7.5 h"."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
