"""The model: its file, its training, its answers. Knows neither FastAPI nor SQLAlchemy."""

from iris_api.inference.artifact import Manifest, Model, load_artifact, save_artifact
from iris_api.inference.classifier import Classifier
from iris_api.inference.engine import InferenceEngine

__all__ = [
    "Classifier",
    "InferenceEngine",
    "Manifest",
    "Model",
    "load_artifact",
    "save_artifact",
]
