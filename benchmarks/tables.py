"""Tables of medians, as Markdown, for a terminal and for docs/performance.md."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("fastapi", "uvicorn", "sqlalchemy", "asyncpg", "scikit-learn")


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are numbers."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "| " + " | ".join(_aligned(row, widths)) + " |"
        for row in [head, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]]
    ]
    lines += ["| " + " | ".join(_aligned(row, widths)) + " |" for row in rows]
    print(f"\n{title}\n", *lines, sep="\n", flush=True)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = row
    return [
        first.ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)),
    ]


def print_machine() -> None:
    """Print the date, the machine and the versions."""
    model = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores of {model}, "
        f"Python {platform.python_version()}, {libraries}"
    )
