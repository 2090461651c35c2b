"""Write an MLflow model folder around the joblib file."""

import sys
from pathlib import Path

import mlflow.pyfunc
from classifier import setting


def write_folder(folder: Path) -> None:
    """No signature: enforcing one costs time on every request and changes no answer."""
    mlflow.pyfunc.save_model(
        folder,
        loader_module="mlflow_loader",
        data_path=setting("PEER_ARTIFACT"),
        pip_requirements=[],
    )


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]))
