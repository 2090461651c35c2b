"""docs/observability.md lists each metric and each log event, with the metrics' labels."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from iris_api.observability.instruments import Instruments

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "observability.md").read_text()
_, LOGS, METRICS = re.split("^## .*$", PAGE, flags=re.MULTILINE)
_, EVENTS = LOGS.split("### Other events")
SOURCES = [file.read_text() for file in (ROOT / "src").rglob("*.py")]
LEVELS = {"debug", "info", "warning", "error", "exception", "warn"}


def rows(section: str) -> Iterator[list[str]]:
    """The cells of each row of the section's table, but for its head."""
    for line in section.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.split("|")[1:-1]]


def logged_events() -> Iterator[str]:
    """The events that the program logs where they are written out."""
    calls = (node for text in SOURCES for node in ast.walk(ast.parse(text)))
    for call in calls:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            target = ast.unparse(call.func.value)
            first = call.args[0] if target.endswith("log") and call.args else None
            named = [keyword.value for keyword in call.keywords if keyword.arg == "event"]
            if call.func.attr in LEVELS:
                for event in [first, *named]:
                    if isinstance(event, ast.Constant):
                        yield str(event.value)


def test_docs_observability_lists_each_metric_with_its_labels() -> None:
    instruments = vars(Instruments()).values()
    named = {
        one._name: set(one._labelnames) for one in instruments if isinstance(one, MetricWrapperBase)
    }
    listed = {
        cells[0].strip("`").removesuffix("_total"): set(re.findall("`(.*?)`", cells[1]))
        for cells in rows(METRICS)
        if cells[0].startswith("`iris_")
    }
    listed["iris_build"] = listed.pop("iris_build_info") - {"version", "python"}
    assert listed == named


def test_docs_observability_lists_each_log_event() -> None:
    listed = {event for cells in rows(EVENTS) for event in re.findall("`(.*?)`", cells[0])}
    assert set(logged_events()) - {"request"} <= listed


def test_docs_observability_lists_no_event_that_the_program_does_not_log() -> None:
    listed = {event for cells in rows(EVENTS) for event in re.findall("`(.*?)`", cells[0])}
    assert {event for event in listed if not any(f'"{event}"' in text for text in SOURCES)} == set()
