"""`iris-api serve`: its options, what it says, and as what."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.conftest import Start
from tests.support.log_lines import lines_of
from tests.support.ports import free_port
from tests.support.raw import HEAD, connected
from tests.support.service import Service, poll_until, run
from tests.support.service_processes import workers_of


def until_logged(service: Service, event: str) -> dict[str, object]:
    """The first line of this event."""
    poll_until(lambda: f'"event": "{event}"' in service.errors, f"{event} is logged")
    return next(line for line in lines_of(service) if line["event"] == event)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_logs_ready_stopping_and_stopped(
    begin: Callable[..., Service], number: signal.Signals
) -> None:
    service = begin(shutdown_delay=0.1)
    ready = until_logged(service, "ready")
    assert ready["url"] == service.url
    assert service.stop(number) == 0
    lines = [line for line in lines_of(service) if line["event"] in {"stopping", "stopped"}]
    assert [line["event"] for line in lines] == ["stopping", "stopped"]
    assert lines[0]["signal"] == number.name
    assert lines_of(service)[-1] == lines[-1]
    assert [line for line in lines_of(service) if line["level"] != "info"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_with_workers_logs_stopped_after_all_else(
    begin: Callable[..., Service], number: signal.Signals
) -> None:
    service = begin(workers=2)
    until_logged(service, "ready")
    assert service.stop(number) == 0
    assert lines_of(service)[-1]["event"] == "stopped"


def test_serve_that_cannot_start_logs_no_end(start: Start, database: URL, data_dir: Path) -> None:
    url = f"{way_to(database)['database_url']}"
    service = start(database_url=url, data_dir=data_dir, host="0.0.0.0")  # noqa: S104, refused
    assert service.wait() == 1
    assert "stopped" not in service.errors


def test_serve_on_all_addresses_logs_a_url_that_can_be_requested(
    begin: Callable[..., Service],
) -> None:
    service = begin(host="0.0.0.0", auth="off")  # noqa: S104, that is the case
    ready = until_logged(service, "ready")
    assert (ready["url"], ready["listening_on"]) == (service.url, "0.0.0.0")  # noqa: S104


def test_serve_logs_the_ml_model_that_it_serves(begin: Callable[..., Service]) -> None:
    service = begin()
    ready = until_logged(service, "ready")
    checks = ready["checks"]
    assert isinstance(checks, dict)
    version = service.get("/model")[1]["version"]
    assert version in checks["model"]


def test_serve_for_the_console_prints_url_model_and_requests_within_80_columns(
    start: Start, database: URL, data_dir: Path
) -> None:
    service = start(**way_to(database), data_dir=data_dir, log_format="console").until_ready()
    service.until_printed("Ctrl-C stops")
    assert service.get("/model")[1]["version"] in service.output
    assert f"Ready on {service.url}\n" in service.output
    assert all(len(line) <= 80 for line in service.output.splitlines() if "data" not in line)
    assert service.stop() == 0
    assert "GET /model 200 " in service.errors
    assert "iris-api-start" not in service.errors
    assert service.errors.splitlines()[-1].endswith(" Stopped")


def test_serve_with_options_overrides_the_environment(
    start: Start, database: URL, data_dir: Path
) -> None:
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    service = start(*options, **way_to(database), data_dir=data_dir, host="::1", workers=1)
    service.port = port
    service.until_ready()
    assert len(workers_of(service)) == 2


@pytest.mark.parametrize(
    "option", [["--port", "65536"], ["--port", "x"], ["--workers", "0"], ["--workers", "65"]]
)
def test_serve_with_an_invalid_option_exits_with_2_and_names_it(
    folder: Path, option: list[str]
) -> None:
    result = run(folder, "serve", *option)
    assert result.returncode == 2
    assert f"Invalid value for '{option[0]}'" in result.stderr


def test_serve_with_an_env_file_and_a_secret_in_a_file_gives_them_to_its_workers(
    start: Start, folder: Path, database: URL, data_dir: Path, tmp_path: Path
) -> None:
    way = way_to(database)
    (tmp_path / "url").write_text(f"{way.pop('database_url')}\n")
    (folder / ".env").write_text(
        f"IRIS_WORKERS=2\nIRIS_ROOT_PATH=/iris\nIRIS_DATABASE_URL_FILE={tmp_path / 'url'}\n"
    )
    service = start(**way, data_dir=data_dir).until_ready()
    assert len(workers_of(service)) == 2
    assert service.get("/openapi.json")[1]["servers"] == [{"url": "/iris"}]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"workers": "zebra"}, "IRIS_WORKERS"),
        ({"database_url": "mysql://127.0.0.1"}, "IRIS_DATABASE_URL"),
        ({"database_url_file": "absent"}, "IRIS_DATABASE_URL_FILE"),
    ],
)
def test_serve_that_cannot_start_with_a_json_log_says_why_in_json(
    folder: Path, settings: dict[str, object], word: str
) -> None:
    result = run(folder, "serve", log_format="json", port=0, **settings)
    assert result.returncode == 1
    [line] = map(json.loads, result.stderr.splitlines())
    assert (line["event"], line["level"]) == ("command_failed", "error")
    assert word in line["message"]


def test_train_without_a_terminal_logs_each_score_as_values(folder: Path, tmp_path: Path) -> None:
    result = run(folder, "train", "--candidate", "nearest-neighbours", data_dir=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    events = [line["event"] for line in lines]
    assert events[0] == "training_started"
    scored = [line for line in lines if line["event"] == "candidate_scored"]
    assert len(scored) == 4
    assert all(0 < line["accuracy"] <= 1 and line["log_loss"] > 0 for line in scored)
    assert all("  " not in line["message"] for line in lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_serve_with_a_request_under_way_logs_stopping_before_it_waits(
    begin: Callable[..., Service], workers: int, number: signal.Signals
) -> None:
    service = begin(workers=workers, shutdown_delay=60)
    with connected(service) as slow:
        slow.send(HEAD, b"Content-Length: 100\r\n\r\n{")
        service.process.send_signal(number)
        assert until_logged(service, "stopping")["signal"] == number.name
        assert service.process.poll() is None
        service.process.send_signal(signal.SIGTERM)
    assert service.wait() == 0
    assert [line["event"] for line in lines_of(service)].count("stopping") == 1
