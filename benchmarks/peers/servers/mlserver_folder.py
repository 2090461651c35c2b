"""Write the folder that `mlserver start` reads: settings.json and model-settings.json."""

import json
import sys
from pathlib import Path

from classifier import setting


def write_folder(folder: Path) -> None:
    """One process (no parallel workers), no access log, no metrics, no gzip."""
    port = int(setting("PEER_PORT"))
    server = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_endpoint": None,
        "gzip_enabled": False,
        "parallel_workers": int(setting("PEER_WORKERS")),
    }
    model = {
        "name": "iris",
        "implementation": setting("PEER_RUNTIME"),
        "max_batch_size": int(setting("PEER_BATCH_SIZE")),
        "max_batch_time": float(setting("PEER_BATCH_WAIT_MS")) / 1000,
        "parameters": {"uri": setting("PEER_ARTIFACT")},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(server, indent=2))
    (folder / "model-settings.json").write_text(json.dumps(model, indent=2))


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]))
