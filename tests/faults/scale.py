"""How long and how often the tests do harm: ``FAULTS_SCALE``, 1 unless it is set."""

import os

SCALE = float(os.environ.get("FAULTS_SCALE", "1"))


def seconds(number: float, *, at_least: float) -> float:
    """So long a duration, scaled."""
    return max(at_least, number * SCALE)


def scaled(number: int, *, at_least: int) -> int:
    """So many, scaled."""
    return max(at_least, round(number * SCALE))
