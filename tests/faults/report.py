"""The table at the end: a line for each fault."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Self

from tests.faults.verdict import Verdict


@dataclass(frozen=True)
class Line:
    """What one fault did; None where there was nothing to measure."""

    fault: str
    times: int
    requests: int
    ok: int
    fail: int
    unknown: int
    lost: int
    double: int
    ghost: int
    worst: float | None
    recovery: float | None
    whys: Mapping[str, int] = field(repr=False)
    """How often which outcome came; not a column."""

    @classmethod
    def of(cls, fault: str, times: int, verdict: Verdict, recovery: float | None) -> Self:
        """What a fault has done, by the verdict over it."""
        return cls(
            fault=fault,
            times=times,
            requests=verdict.requests,
            ok=verdict.counts["ok"],
            fail=verdict.counts["fail"],
            unknown=verdict.counts["unknown"],
            lost=len(verdict.lost),
            double=len(verdict.double),
            ghost=len(verdict.ghost),
            worst=verdict.worst,
            recovery=recovery,
            whys=verdict.whys,
        )

    def as_found(self, later: Verdict) -> Self:
        """The same outcomes, with what a later look at the table has found."""
        return replace(self, lost=len(later.lost), double=len(later.double), ghost=len(later.ghost))


_HEADS = {"worst": "worst answer (s)", "recovery": "recovery (s)"}


def table(lines: Sequence[Line]) -> list[str]:
    """The lines of text, aligned: words to the left, numbers to the right."""
    names = [column.name for column in fields(Line) if column.repr]
    rows = [[_HEADS.get(name, name) for name in names]]
    rows += [[_text(getattr(line, name)) for name in names] for line in lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
    return [
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else f"{value}"
