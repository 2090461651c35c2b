"""`iris-api keys`, beside a service that asks for them."""

import os
import re
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL
from tests.conftest import way_to
from tests.e2e.conftest import Start
from tests.e2e.terminal import at_terminal
from tests.support.raw import BODY
from tests.support.service import Service, assert_one_clear_sentence, environment, poll_until, run


@pytest.fixture
def data_dir(embedded_dir: Path) -> Path:
    """No test here is about the first start, which runs initdb."""
    return embedded_dir


def keys(folder: Path, data_dir: Path, *arguments: str, **settings: object) -> str:
    """Run ``iris-api keys``; return what it says on standard output."""
    result = run(folder, "keys", *arguments, data_dir=data_dir, **settings)
    assert result.returncode == 0, result.stderr
    return result.stdout


def ask(service: Service, path: str, token: str | None, body: Any = None) -> int:
    """The status of the answer."""
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
    try:
        connection.request("GET" if body is None else "POST", path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_keys_creates_lists_and_revokes_beside_a_running_service(
    start: Start, folder: Path, data_dir: Path
) -> None:
    service = start(data_dir=data_dir, auth="keys", key_cache_seconds=0.2).until_ready()
    assert ask(service, "/predict", None, BODY) == 401

    made = run(folder, "keys", "create", "--client", "Ann [x]", data_dir=data_dir)
    assert made.returncode == 0, made.stderr
    token = made.stdout.removesuffix("\n")
    assert re.fullmatch(r"iris_[\w-]{43}", token)
    assert "Ann [x]" in made.stderr
    assert token not in made.stderr
    number = int(re.findall(r"Key (\d+)", made.stderr)[0])

    assert ask(service, "/predict", token, BODY) == 200
    assert ask(service, "/predictions", token) == 200
    assert ask(service, "/metrics", token) == 403

    admin = keys(folder, data_dir, "create", "--client", "ops", "--scope", "admin").strip()
    assert ask(service, "/metrics", admin) == 200
    assert ask(service, "/predict", admin, BODY) == 403

    table = keys(folder, data_dir, "list")
    [ann, ops] = [line.split("\t") for line in table.splitlines()[1:]]
    assert ann[:3] == [str(number), "Ann [x]", "predict read"]
    assert ops[1:3] == ["ops", "admin"]
    assert token not in table
    assert ann[-2:] == ["-", "-"]  # neither expires nor was revoked

    said = keys(folder, data_dir, "revoke", str(number), log_format="console")
    assert f"Key {number} is revoked" in said
    poll_until(lambda: ask(service, "/predict", token, BODY) == 401, "the key is refused")
    assert ask(service, "/metrics", admin) == 200
    [ann_line, _] = keys(folder, data_dir, "list").splitlines()[1:]
    assert re.search(r"\t-\t\d{4}-\d{2}-\d{2} \d{2}:\d{2}$", ann_line)
    said = keys(folder, data_dir, "revoke", str(number), log_format="console")
    assert f"Key {number} was revoked already, at {ann_line[-16:]}" in said

    assert service.stop() == 0
    for text in (service.output, service.errors):
        assert token not in text
        assert admin not in text


def test_serve_with_auth_keys_prints_working_commands_to_create_and_send_an_api_key(
    start: Start, folder: Path, data_dir: Path
) -> None:
    service = start(data_dir=data_dir, auth="keys", log_format="console").until_ready()
    script = service.until_printed(r"Try it:\n((?:  .+\n)+)")[1]
    make, predict, list_all = re.split(r"^  (?=\S)", script, flags=re.MULTILINE)[1:]
    env = environment(data_dir=data_dir) | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    }
    for command in (predict, list_all):
        request = command.replace("curl", "curl --silent --show-error --fail", 1)
        subprocess.run(
            ["bash", "-ec", f"{make}\n{request}"],
            env=env,
            cwd=folder,
            check=True,
            capture_output=True,
        )


def test_keys_create_works_before_the_first_serve(folder: Path, data_dir: Path) -> None:
    assert run(folder, "migrate", data_dir=data_dir).returncode == 0
    token = keys(folder, data_dir, "create", "--client", "one", "--days", "30").strip()
    assert token.startswith("iris_")
    [row] = keys(folder, data_dir, "list").splitlines()[1:]
    assert re.search(r"\t\d{4}-\d{2}-\d{2} \d{2}:\d{2}\t-$", row)


def test_keys_list_without_any_key_says_how_to_make_one(folder: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "new"
    assert run(folder, "migrate", data_dir=data_dir).returncode == 0
    result = run(folder, "keys", "list", data_dir=data_dir)
    assert (result.returncode, result.stdout) == (0, "")
    assert "iris-api keys create" in result.stderr


NAMES = ["customer-eu-production", "customer-eu-preproduction", "Łukasz " * 12, "x" * 100]


@pytest.mark.parametrize("columns", [80, 200])
def test_keys_list_at_a_terminal_shows_each_name_on_one_line(
    folder: Path, database: URL, columns: int
) -> None:
    settings = way_to(database)
    for name in NAMES:
        scopes = [word for scope in ("predict", "read", "admin") for word in ("--scope", scope)]
        made = run(folder, "keys", "create", "--client", name, *scopes, "--days", "30", **settings)
        assert made.returncode == 0, made.stderr
    shown = at_terminal(folder, "keys", "list", columns=columns, settings=settings)
    piped = run(folder, "keys", "list", **settings).stdout
    for name in NAMES:
        assert sum(name in line for line in shown.splitlines()) == 1
        assert sum(f"\t{name}\t" in line for line in piped.splitlines()) == 1


def test_keys_list_at_a_terminal_without_unicode_escapes_the_name(
    folder: Path, database: URL
) -> None:
    settings = way_to(database)
    assert run(folder, "keys", "create", "--client", "Łukasz", **settings).returncode == 0
    listed = at_terminal(folder, "keys", "list", encoding="latin-1", settings=settings)
    assert "\\u0141ukasz" in listed
    said = at_terminal(folder, "keys", "revoke", "1", encoding="latin-1", settings=settings)
    assert re.sub(r"\x1b\[\d+m", "", said).startswith("* Key 1 is revoked")


def test_keys_create_with_a_json_log_writes_only_the_token_to_standard_output(
    folder: Path, data_dir: Path
) -> None:
    settings = {"data_dir": data_dir, "log_format": "json"}
    for arguments in (["migrate"], ["keys", "create", "--client", "one"]):
        result = run(folder, *arguments, **settings)
        assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"iris_[\w-]{43}\n", result.stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["revoke", "4711"], ["4711", "iris-api keys list"]),
        (["list"], ["iris-api migrate"]),
        (["create", "--client", "one"], ["iris-api migrate"]),
    ],
)
def test_keys_with_an_unknown_number_or_without_migrate_exits_with_one_sentence(
    folder: Path, data_dir: Path, arguments: list[str], words: list[str]
) -> None:
    if "revoke" in arguments:
        assert run(folder, "migrate", data_dir=data_dir).returncode == 0
    result = run(folder, "keys", *arguments, data_dir=data_dir)
    assert result.returncode == 1
    assert_one_clear_sentence(result.stderr, *words)
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["create"],
        ["create", "--client", ""],
        ["create", "--client", "x" * 101],
        ["create", "--client", "a\nb"],
        ["create", "--client", "one", "--scope", "everything"],
        ["create", "--client", "one", "--days", "0"],
        ["revoke", "0"],
        ["revoke", "one"],
        ["revoke", str(2**63)],
    ],
)
def test_keys_with_invalid_arguments_exits_with_2_and_creates_nothing(
    folder: Path, tmp_path: Path, arguments: list[str]
) -> None:
    result = run(folder, "keys", *arguments, data_dir=tmp_path / "new")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("client", ["", "a\tb", "x" * 101])
def test_keys_create_with_an_invalid_client_name_says_what_is_valid(
    folder: Path, tmp_path: Path, client: str
) -> None:
    result = run(folder, "keys", "create", "--client", client, data_dir=tmp_path / "new")
    assert result.returncode == 2
    assert "1 to 100 printable characters" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104, that is what is refused
def test_serve_on_all_addresses_without_auth_set_exits_with_one_sentence(
    start: Start, data_dir: Path, host: str
) -> None:
    service = start(data_dir=data_dir, host=host)
    assert service.wait() == 1
    assert_one_clear_sentence(service.errors, host, "IRIS_AUTH", "iris-api keys create", "`off`")
    assert service.output == ""


@pytest.mark.parametrize(("auth", "status"), [("off", 200), ("keys", 401)])
def test_serve_on_all_addresses_with_auth_set_serves(
    start: Start, data_dir: Path, auth: str, status: int
) -> None:
    service = start(data_dir=data_dir, host="0.0.0.0", auth=auth).until_ready()  # noqa: S104
    assert ask(service, "/predict", None, BODY) == status
    assert service.stop() == 0
