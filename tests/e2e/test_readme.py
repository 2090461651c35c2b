"""The pages show what happens: their commands are run, and their answers compared."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Start
from tests.support.service import Service, environment, poll_until

from iris_api.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
HTTP_API = (ROOT / "docs" / "http-api.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
MODELS = (ROOT / "docs" / "models.md").read_text()
CONSOLE: list[tuple[str, str]] = re.findall(
    r"```console\n\$ (.+)\n(.+)\n```", f"{README}\n{HTTP_API}"
)
[OWN_MODEL] = re.findall(r"```python\n(.+?)```", MODELS, re.DOTALL)
VARIES = {"id", "created_at", "next_cursor", "model_version"}


def settings_table() -> str:
    rows = ["| variable | default | |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        value = str(field.default).lower() if field.annotation is bool else field.default
        default = {None: "unset", "": "empty"}.get(value, f"`{value}`")
        rows.append(f"| `IRIS_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def without_what_varies(value: object) -> Any:
    if isinstance(value, dict):
        return {key: without_what_varies(item) for key, item in value.items() if key not in VARIES}
    if isinstance(value, list):
        return [without_what_varies(item) for item in value]
    return pytest.approx(value) if isinstance(value, float) else value


def test_settings_page_lists_all_settings_with_their_defaults() -> None:
    [table] = re.findall(r"<!-- settings: .+ -->\n(.*)\n<!-- /settings -->", SETTINGS, re.DOTALL)
    assert table.strip() == settings_table()


def test_readme_and_http_api_page_have_four_console_examples() -> None:
    assert len(CONSOLE) == 4


@pytest.fixture(scope="module")
def asked(service: Service) -> Service:
    """A service that has been asked README's first question."""
    run_console(CONSOLE[0][0], service)
    return service


def run_console(command: str, service: Service) -> str:
    command = command.replace("http://127.0.0.1:8000", service.url)
    return subprocess.run(
        ["bash", "-c", command], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize(("command", "shown"), CONSOLE)
def test_documented_console_example_returns_the_response_shown(
    asked: Service, command: str, shown: str
) -> None:
    answered = json.loads(run_console(command, asked))
    expected = json.loads(shown)
    assert without_what_varies(answered) == without_what_varies(expected)
    if isinstance(answered, dict):
        assert list(answered) == list(expected)


def test_make_run_serves_predictions(tmp_path: Path) -> None:
    """README's first command, with this environment in the place of .venv."""
    Path(sys.prefix, ".runtime").touch()
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["make", "run", f"VENV={sys.prefix}"],
            cwd=ROOT,
            env=environment(data_dir=tmp_path / "data", port=0, log_format="console"),
            stdout=file,
            stderr=file,
        )
    try:
        poll_until(lambda: "Ready on" in output.read_text(), "make run said that it is ready")
        [curl] = re.findall(
            r"^  (curl \S+/predict .+?\n)  curl ", output.read_text(), re.MULTILINE | re.DOTALL
        )
        answer = subprocess.run(["bash", "-c", curl], check=True, capture_output=True, text=True)
        assert json.loads(answer.stdout)["prediction_label"] == "setosa"
    finally:
        process.terminate()
        process.wait(60)


def test_serve_with_the_custom_ml_model_of_the_models_page_uses_it(
    start: Start, tmp_path: Path
) -> None:
    script = OWN_MODEL.replace(".iris/model", str(tmp_path / "data" / "model"))
    printed = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert printed.startswith("naive-bayes-")
    service = start(data_dir=tmp_path / "data").until_ready()
    answer = json.loads(run_console(CONSOLE[0][0], service))
    assert answer["model_version"] == printed
