"""Four open model servers as data: how to install, start, call and stop each of them.

`install` builds a peer's own virtual environment; `serving` runs the peer for the length of a
`with` block. Each peer's settings are the best ones found for the load of ``make bench-peers``.
"""

import contextlib
import http.client
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.workbench import HOME as WORK_FOLDER

HOME = Path(__file__).resolve().parent
SERVERS = HOME / "servers"
CONSTRAINTS = HOME / "constraints"
ENVIRONMENTS = WORK_FOLDER.resolve() / "peers"
LOGS = ENVIRONMENTS / "logs"
HOST = "127.0.0.1"

INSTALL_DEADLINE_S = 900.0
READY_DEADLINE_S = 90.0
STOP_DEADLINE_S = 10.0
POLL_S = 0.1
LOG_TAIL_CHARS = 2000

SHARED_REQUIREMENTS = (
    "scikit-learn==1.9.1",
    "numpy==2.4.6",
    "joblib==1.6.0",
    "uvloop==0.23.0",
    "httptools==0.9.0",
)
SHARED_VARIABLES = {
    "DO_NOT_TRACK": "true",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OTEL_SDK_DISABLED": "true",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": str(SERVERS),
    "PYTHONUNBUFFERED": "1",
}
# Every process of a run inherits this variable, so none can outlive its `with` block unseen.
RUN_VARIABLE = "PEER_RUN"


class PeerError(RuntimeError):
    """A peer could not be installed, started or understood; the message says what to do."""


@dataclass(frozen=True)
class Answer:
    """A peer's prediction, independent of its wire format."""

    label: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Peer:
    """One model server.

    Parts of a command and values of the environment may name {python}, {bin}, {folder} (a scratch
    folder of the run), {servers}, {port} and any of the settings.
    """

    name: str
    requirements: tuple[str, ...]
    command: tuple[str, ...]
    ready_path: str
    request_path: str
    request_body: bytes
    read_answer: Callable[[bytes], Answer]
    settings: Mapping[str, str]
    prepare: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    python_version: str = "3.11"

    def python(self, folder: Path = ENVIRONMENTS) -> Path:
        """The interpreter of this peer's own environment."""
        return folder / self.name / "bin" / "python"


def _body(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _answer(prediction: Mapping[str, object]) -> Answer:
    probabilities = prediction["probabilities"]
    if not isinstance(probabilities, list):
        raise TypeError(f"probabilities should be a list, not {probabilities!r}")
    return Answer(str(prediction["label"]), tuple(float(value) for value in probabilities))


def _read_object(body: bytes) -> Answer:
    return _answer(json.loads(body))


def _read_first(body: bytes) -> Answer:
    return _answer(json.loads(body)[0])


def _read_predictions(body: bytes) -> Answer:
    return _answer(json.loads(body)["predictions"][0])


def _read_tensors(body: bytes) -> Answer:
    tensors = {output["name"]: output["data"] for output in json.loads(body)["outputs"]}
    return _answer({"label": tensors["label"][0], "probabilities": tensors["probabilities"]})


IRIS_ROW = [5.1, 3.5, 1.4, 0.2]

LITSERVE = Peer(
    name="litserve",
    requirements=("litserve==0.2.19", *SHARED_REQUIREMENTS),
    command=("{python}", "{servers}/litserve_server.py"),
    ready_path="/health",
    request_path="/predict",
    request_body=_body({"row": IRIS_ROW}),
    read_answer=_read_object,
    settings={
        "PEER_BATCH_SIZE": "32",
        "PEER_BATCH_WAIT_MS": "5",
        "PEER_TRANSPORT": "mp",
        "PEER_API_WORKER": "process",
    },
)

BENTOML = Peer(
    name="bentoml",
    requirements=("bentoml==1.4.39", *SHARED_REQUIREMENTS),
    command=(
        *("{python}", "-m", "bentoml", "serve", "bentoml_server:Iris"),
        *("--working-dir", "{servers}", "--host", HOST, "--port", "{port}"),
    ),
    ready_path="/readyz",
    request_path="/classify",
    request_body=_body({"rows": [IRIS_ROW]}),
    read_answer=_read_first,
    settings={"PEER_BATCH_SIZE": "32", "PEER_MAX_LATENCY_MS": "1000"},
    environment={"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": "{folder}"},
)

MLSERVER = Peer(
    name="mlserver",
    requirements=("mlserver==1.7.1", "mlserver-sklearn==1.7.1", *SHARED_REQUIREMENTS),
    prepare=("{python}", "{servers}/mlserver_folder.py", "{folder}/model"),
    command=("{bin}/mlserver", "start", "{folder}/model"),
    ready_path="/v2/models/iris/ready",
    request_path="/v2/models/iris/infer",
    request_body=_body(
        {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": IRIS_ROW}]}
    ),
    read_answer=_read_tensors,
    settings={
        "PEER_BATCH_SIZE": "64",
        "PEER_BATCH_WAIT_MS": "5",
        "PEER_RUNTIME": "mlserver_runtime.IrisRuntime",
        "PEER_WORKERS": "0",
    },
)

MLFLOW = Peer(
    name="mlflow",
    requirements=("mlflow==3.17.2", *SHARED_REQUIREMENTS),
    prepare=("{python}", "{servers}/mlflow_folder.py", "{folder}/model"),
    command=(
        *("{python}", "-m", "uvicorn", "mlflow.pyfunc.scoring_server.app:app"),
        *("--host", HOST, "--port", "{port}", "--no-access-log", "--log-level", "warning"),
        *("--loop", "{PEER_LOOP}", "--http", "httptools", "--workers", "{PEER_WORKERS}"),
    ),
    ready_path="/ping",
    request_path="/invocations",
    request_body=_body({"inputs": [IRIS_ROW]}),
    read_answer=_read_predictions,
    settings={"PEER_WORKERS": "1", "PEER_LOOP": "mlflow_loop:new_loop"},
    environment={
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": "file://{folder}/runs",
        "__pyfunc_model_path__": "{folder}/model",
    },
)

PEERS: Mapping[str, Peer] = {peer.name: peer for peer in (LITSERVE, BENTOML, MLSERVER, MLFLOW)}


def install(peer: Peer, folder: Path = ENVIRONMENTS) -> Path:
    """Build `folder/<peer>` with the pinned packages unless it has them; return its python."""
    python = peer.python(folder)
    if _has_requirements(peer, python):
        return python
    base = shutil.which(f"python{peer.python_version}")
    if base is None:
        raise PeerError(
            f"{peer.name} needs python{peer.python_version}, which is not on PATH: "
            f"install it (for example `pyenv install {peer.python_version}`) and run again."
        )
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pins = [*peer.requirements, "--constraint", str(CONSTRAINTS / f"{peer.name}.txt")]
    _run([base, "-m", "venv", "--clear", str(folder / peer.name)], peer, "make its environment")
    _run([*pip, *pins], peer, "install its packages")
    if not _has_requirements(peer, python):
        raise PeerError(
            f"{peer.name}: pip succeeded but the pins {peer.requirements} are not all there: "
            f"compare them with constraints/{peer.name}.txt, and make the two agree."
        )
    return python


def _has_requirements(peer: Peer, python: Path) -> bool:
    if not python.exists():
        return False
    script = (
        "import sys; from importlib.metadata import version\n"
        "assert sys.version.startswith(sys.argv[1] + '.')\n"
        "for pin in sys.argv[2:]:\n"
        "    name, _, wanted = pin.partition('==')\n"
        "    assert version(name) == wanted"
    )
    command = [str(python), "-c", script, peer.python_version, *peer.requirements]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(
    command: list[str], peer: Peer, purpose: str, environment: Mapping[str, str] | None = None
) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_DEADLINE_S,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise PeerError(
            f"{peer.name}: it took over {INSTALL_DEADLINE_S:.0f} s to {purpose}: check that the "
            f"package index answers, then run `{' '.join(command)}` by hand."
        ) from None
    if done.returncode:
        raise PeerError(
            f"{peer.name}: could not {purpose}. Run `{' '.join(command)}` by hand and mend what "
            f"it reports; its last words were:\n{done.stderr[-LOG_TAIL_CHARS:]}"
        )


@contextlib.contextmanager
def serving(
    peer: Peer,
    artifact: Path,
    port: int,
    cores: str = "0",
    folder: Path = ENVIRONMENTS,
) -> Iterator[str]:
    """Serve `artifact` on `port`, pinned to `cores`, and yield the address to post rows to."""
    python = peer.python(folder)
    if not python.exists():
        raise PeerError(f"{peer.name} is not installed: call install(PEERS[{peer.name!r}]) first.")
    if not artifact.is_file():
        raise PeerError(f"{artifact} is not there: write it (see artifacts.py), then run again.")
    _claim(port)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{peer.name}.log"
    with tempfile.TemporaryDirectory(prefix=f"peer-{peer.name}-") as scratch:
        places = {
            "python": str(python),
            "bin": str(python.parent),
            "folder": scratch,
            "servers": str(SERVERS),
            "port": str(port),
            **peer.settings,
        }
        token = uuid.uuid4().hex
        environment = _environment(peer, artifact, places, token)
        if peer.prepare:
            prepare = [part.format(**places) for part in peer.prepare]
            _run(prepare, peer, "write its model folder", environment)
        command = ["taskset", "-c", cores, *(part.format(**places) for part in peer.command)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_until_ready(peer, process, port, log)
            check(peer, port)
            yield f"http://{HOST}:{port}{peer.request_path}"
        finally:
            _stop(process, token)


def check(peer: Peer, port: int) -> Answer:
    """Send one setosa row and check the response."""
    advice = (
        f"make sure that nothing else took port {port} meanwhile, then compare {peer.name}'s "
        "request and server file with its documentation."
    )
    try:
        status, body = _request(port, "POST", peer.request_path, peer.request_body)
    except (OSError, http.client.HTTPException) as error:
        raise PeerError(
            f"{peer.name} is ready but left one row without an answer ({error!r}): "
            f"look into {LOGS / peer.name}.log, then {advice}"
        ) from error
    if status != http.client.OK:
        raise PeerError(f"{peer.name} answered {status} {body[:300]!r} to one row: {advice}")
    try:
        answer = peer.read_answer(body)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PeerError(f"{peer.name} answered {body[:300]!r} ({error!r}): {advice}") from error
    sums_to_one = math.isclose(sum(answer.probabilities), 1.0, abs_tol=1e-6)
    if len(answer.probabilities) != 3 or not sums_to_one or answer.probabilities[0] < 0.9:
        raise PeerError(
            f"{peer.name} does not take a plain setosa for one ({answer}): check that the "
            "artifact is an iris classifier, and that its classes start with setosa."
        )
    return answer


def _environment(
    peer: Peer, artifact: Path, places: Mapping[str, str], token: str
) -> dict[str, str]:
    foreign = {"PYTHONHOME", "VIRTUAL_ENV"}
    inherited = {key: value for key, value in os.environ.items() if key not in foreign}
    own = {key: value.format(**places) for key, value in peer.environment.items()}
    run = {
        RUN_VARIABLE: token,
        "PEER_ARTIFACT": str(artifact.resolve()),
        "PEER_PORT": places["port"],
        "PATH": f"{places['bin']}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    return inherited | SHARED_VARIABLES | own | dict(peer.settings) | run


def _claim(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PeerError(
                f"Port {port} is taken ({error}): stop what listens there "
                f"(`ss -ltnp 'sport = :{port}'`) or choose another port."
            ) from error


def _request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _wait_until_ready(peer: Peer, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PeerError(
                f"{peer.name} ended with code {process.returncode} before it was ready. Mend what "
                f"{log} reports; its last words were:\n{_tail(log)}"
            )
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _request(port, "GET", peer.ready_path)[0] == http.client.OK:
                return
        time.sleep(POLL_S)
    raise PeerError(
        f"{peer.name} was not ready on {peer.ready_path} after {READY_DEADLINE_S:.0f} s. Look into "
        f"{log}, or raise READY_DEADLINE_S on a slow machine; its last words were:\n{_tail(log)}"
    )


def _tail(log: Path) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))[-LOG_TAIL_CHARS:]


def _stop(process: subprocess.Popen[bytes], token: str) -> None:
    """Stop the process group by SIGTERM, then all other processes with this run's token."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_DEADLINE_S
    while time.monotonic() < deadline:
        process.poll()
        if not _carriers(token):
            break
        time.sleep(POLL_S)
    for pid in _carriers(token):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _carriers(token: str) -> list[int]:
    """Live processes started with this run's token: a worker may have left the group."""
    mark = f"{RUN_VARIABLE}={token}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found
