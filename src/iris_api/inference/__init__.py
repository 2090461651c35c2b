"""The ML model: its file, training and predictions. Uses neither FastAPI nor SQLAlchemy."""

from iris_api.inference.classifier import Classifier
from iris_api.inference.engine import InferenceEngine
from iris_api.inference.loading import Model, load_artifact
from iris_api.inference.manifest import Manifest
from iris_api.inference.saving import save_artifact

__all__ = [
    "Classifier",
    "InferenceEngine",
    "Manifest",
    "Model",
    "load_artifact",
    "save_artifact",
]
