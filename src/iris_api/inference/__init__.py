"""The ML model: its file, training and predictions. Uses neither FastAPI nor SQLAlchemy."""

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
