"""``make bench-peers``: the service, which stores, against model servers that store nothing.

Each serves the same model file, on the same core, at the best batching settings found for it.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

from benchmarks.load import BODY, Sample, put_load
from benchmarks.peers.peers import PEERS, Peer, install, serving
from benchmarks.processes import HOST, SERVER_CORE, iris_server
from benchmarks.tables import print_machine, print_table
from benchmarks.workbench import MODELS, Workbench, settle, workbench

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "6"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
CONNECTIONS = 64
PORT = 8321
OURS = "iris-api, stored durably"


def main() -> None:
    """Install what is missing, measure in turn, print a table for each model."""
    print_machine()
    for peer in PEERS.values():
        print(f"{peer.name}: {' '.join(peer.requirements)}", flush=True)
        install(peer)
    with workbench() as bench:
        for model in MODELS:
            report(model, measure(bench, model))


def measure(bench: Workbench, model: str) -> dict[str, list[Sample]]:
    """Measure rounds in turn, each with a new server: five at once would share the core's cache."""
    samples: dict[str, list[Sample]] = {OURS: [], **{name: [] for name in PEERS}}
    for _ in range(ROUNDS):
        for name, rounds in samples.items():
            with contender(bench, model, PEERS.get(name)) as (url, body):
                put_load(url, body, connections=CONNECTIONS, seconds=2)  # warms up
                rounds.append(put_load(url, body, connections=CONNECTIONS, seconds=SECONDS))
            settle()
    return samples


@contextmanager
def contender(bench: Workbench, model: str, peer: Peer | None) -> Iterator[tuple[str, str]]:
    """Serve the model by a peer, or by the service; yield the URL and the request's body."""
    with ExitStack() as stack:
        if peer is None:
            server = iris_server(
                OURS, PORT, environment=bench.environment(model), log=bench.log("ours")
            )
            stack.enter_context(server)
            yield f"http://{HOST}:{PORT}/predict", BODY
        else:
            [artifact] = (bench.data_dir(model) / "model").glob("*.joblib")
            url = stack.enter_context(serving(peer, artifact, PORT, cores=str(SERVER_CORE)))
            yield url, peer.request_body.decode()


def report(model: str, samples: dict[str, list[Sample]]) -> None:
    """Print the medians, and each as a ratio to the service's."""
    ours = samples[OURS]
    rows = []
    for name, rounds in samples.items():
        ratios = [
            own.per_second / other.per_second for own, other in zip(ours, rounds, strict=True)
        ]
        rows.append(
            [
                name,
                f"{median(s.per_second for s in rounds):.0f}",
                f"{median(ratios):.2f}",
                f"{median(s.p50 for s in rounds):.1f}",
                f"{median(s.p99 for s in rounds):.1f}",
                str(sum(s.failures for s in rounds)),
            ]
        )
    print_table(
        f"{MODELS[model]}, {CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS:g} s",
        ["", "req/s", "ours to it", "p50 ms", "p99 ms", "failed"],
        rows,
    )


if __name__ == "__main__":
    main()
