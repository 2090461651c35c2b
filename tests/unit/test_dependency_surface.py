"""What is used of a dependency that is private, or likely to change with its next release.

One row for each. A row that fails says which file relies on it: read the dependency's changes, mend
that file, then this row. Until then keep the dependency's upper bound in pyproject.toml.
"""

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.engine.base import ExceptionContextImpl
from sqlalchemy.exc import EmulatedDBAPIException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState
from uvicorn.supervisors.multiprocess import Multiprocess, Process

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "iris_api"


def names_of(thing: Any) -> set[str]:
    """Its attributes, those included that its methods or annotations name."""
    names = set(dir(thing))
    for cls in inspect.getmro(thing) if inspect.isclass(thing) else []:
        if cls.__module__ != "builtins":
            names |= set(re.findall(r"(?:self\.|^    )(\w+)", inspect.getsource(cls), re.MULTILINE))
    return names


PROTOCOL = """
    pipeline cycle url headers flow app_state server_state loop transport expect_100_continue
    data_received eof_received on_message_begin on_headers_complete on_body on_response_complete
    shutdown send_400_response _start_asgi_task _unsupported_upgrade_warning
"""
SUPERVISOR = """
    signal_queue processes config handle_term keep_subprocess_alive terminate_all join_all
"""
DEPENDANT = """
    path_params query_params header_params cookie_params body_params dependencies call name
    background_tasks_param_name request_param_name response_param_name
"""
CYCLE = "scope message_event keep_alive more_body response_complete disconnected"
ATTRIBUTES: list[tuple[Any, str, str]] = [
    (HttpToolsProtocol, PROTOCOL, "server/connections.py"),
    (RequestResponseCycle, CYCLE, "server/connections.py"),
    (FlowControl, "read_paused write_paused resume_reading", "server/connections.py"),
    (ServerState, "default_headers total_requests", "server/connections.py"),
    (Server, "handle_exit", "server/run.py"),
    (Multiprocess, SUPERVISOR, "server/supervisor.py"),
    (Process, "pid exitcode", "server/supervisor.py"),
    (Dependant, DEPENDANT, "web/json_route.py"),
    (APIRoute, "handle dependant methods path_regex", "web/json_route.py, web/read_route.py"),
    (CORSMiddleware, "preflight_response", "web/cors.py"),
    (StaticFiles, "get_path get_response", "web/openapi.py"),
    (AsyncAdapt_asyncpg_connection, "run_async driver_connection", "database/pool.py"),
    (EmulatedDBAPIException, "orig", "database/driver_errors.py"),
    (
        ExceptionContextImpl,
        "is_disconnect invalidate_pool_on_disconnect statement connection original_exception",
        "database/pool.py",
    ),
    (asyncpg.PostgresError, "sqlstate detail context severity_en", "database/failures.py"),
    (asyncpg.exceptions, "InvalidCachedStatementError ClientConfigurationError", "failures.py"),
    (values, "ValueClass MutexValue MultiProcessValue", "observability/shared_files.py"),
    (MultiProcessCollector, "_path merge collect", "observability/shared_files.py"),
    (MmapedDict, "read_value write_value", "observability/shared_files.py"),
    (structlog, "get_config make_filtering_bound_logger", "logging.py"),
]


@pytest.mark.parametrize(
    ("thing", "names", "user"), ATTRIBUTES, ids=[row[0].__name__ for row in ATTRIBUTES]
)
def test_dependency_has_each_used_name(thing: Any, names: str, user: str) -> None:
    missing = set(names.split()) - names_of(thing)
    assert not missing, f"{thing.__name__} has no {missing} any more, which {user} uses"


PARAMETERS: list[tuple[Callable[..., Any], str, str]] = [
    (values.MultiProcessValue, "process_identifier", "observability/shared_files.py makes one"),
]


@pytest.mark.parametrize(
    ("make", "names", "user"), PARAMETERS, ids=[row[0].__name__ for row in PARAMETERS]
)
def test_dependency_takes_the_used_arguments(
    make: Callable[..., Any], names: str, user: str
) -> None:
    parameters = list(inspect.signature(make).parameters)
    assert parameters == names.split(), f"{user} by its arguments of before"


def test_starlette_response_has_content_length_as_its_first_header() -> None:
    """`web/json_route.py` replaces the first header when it has the body."""
    assert Response(media_type="application/json").raw_headers[0][0] == b"content-length"


def requirements() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {canonicalize_name(one.name): one for one in map(Requirement, project["dependencies"])}


def imported() -> set[str]:
    """The top-level modules that the source imports, but the standard library's and its own."""
    found = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"iris_api"}


def test_pyproject_declares_and_bounds_each_imported_package() -> None:
    declared = requirements()
    by_module = packages_distributions()
    for module in imported():
        names = {canonicalize_name(name) for name in by_module[module]}
        assert names & set(declared), f"declare {names} in pyproject.toml: {module} is imported"
    for name, requirement in declared.items():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert {">=", "<"} <= operators, f"bound {name} on both sides"
