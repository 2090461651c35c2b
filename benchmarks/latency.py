"""A picture of latency against concurrency, and the table beside it."""

import math
from collections.abc import Callable
from pathlib import Path

from benchmarks.load import BODY, Sample, put_load
from benchmarks.processes import HOST, Server
from benchmarks.tables import print_table
from benchmarks.workbench import settle

LEVELS = [2**power for power in range(9)]  # 1 to 256 connections
SECONDS = 3
WIDTH, HEIGHT, LEFT, TOP = 720, 400, 60, 50
DECADES = (-1, 3)  # from 0.1 to 1000 milliseconds
COLOURS = ("#888888", "#1f6feb")


def draw(servers: list[Server], path: Path) -> None:
    """Measure the servers in turn at each level, print the figures, write the picture."""
    samples: dict[str, list[Sample]] = {server.name: [] for server in servers}
    for level in LEVELS:
        for server in servers:
            url = f"http://{HOST}:{server.port}/predict"
            samples[server.name].append(put_load(url, BODY, connections=level, seconds=SECONDS))
            settle()
    print_table(
        f"Latency against concurrency, {SECONDS} s each; p50 and p99 in milliseconds",
        ["connections", *(f"{name}, {what}" for name in samples for what in ("p50", "p99"))],
        [
            [
                str(level),
                *(f"{value:.1f}" for s in samples.values() for value in (s[i].p50, s[i].p99)),
            ]
            for i, level in enumerate(LEVELS)
        ],
    )
    path.write_text(_svg(samples))
    print(f"\nwrote {path}")


def _svg(samples: dict[str, list[Sample]]) -> str:
    parts = [*_grid()]
    for number, (name, of_levels) in enumerate(samples.items()):
        colour = COLOURS[number]
        parts.append(_curve(of_levels, lambda sample: sample.p50, colour, dashed=False))
        parts.append(_curve(of_levels, lambda sample: sample.p99, colour, dashed=True))
        y = TOP - 30 + 16 * number
        parts.append(_text(LEFT + 10, y, f"{name}: p50 solid, p99 dashed", "start", colour))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )


def _grid() -> list[str]:
    parts = []
    for decade in range(DECADES[0], DECADES[1] + 1):
        y = _y(10**decade)
        parts.append(_line(LEFT, y, WIDTH - 20, y))
        parts.append(_text(LEFT - 6, y + 4, f"{10.0**decade:g} ms", "end"))
    for level in LEVELS:
        x = _x(level)
        parts.append(_line(x, TOP, x, HEIGHT - 40))
        parts.append(_text(x, HEIGHT - 24, str(level), "middle"))
    parts.append(_text(WIDTH / 2, HEIGHT - 6, "connections", "middle"))
    return parts


def _curve(
    samples: list[Sample], get: Callable[[Sample], float], colour: str, *, dashed: bool
) -> str:
    pairs = zip(LEVELS, samples, strict=True)
    points = " ".join(f"{_x(level):.1f},{_y(get(sample)):.1f}" for level, sample in pairs)
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'


def _x(level: int) -> float:
    return LEFT + math.log2(level) / math.log2(LEVELS[-1]) * (WIDTH - LEFT - 20)


def _y(milliseconds: float) -> float:
    low, high = DECADES
    share = (math.log10(milliseconds) - low) / (high - low)
    return HEIGHT - 40 - share * (HEIGHT - 40 - TOP)
