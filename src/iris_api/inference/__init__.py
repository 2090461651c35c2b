"""The model: its file, its training, its answers. Knows neither FastAPI nor SQLAlchemy."""

from iris_api.inference.artifact import Manifest, Model, load_artifact, save_artifact
from iris_api.inference.classifier import FEATURE_NAMES, Classifier, ClassPrediction
from iris_api.inference.engine import InferenceEngine

__all__ = [
    "FEATURE_NAMES",
    "ClassPrediction",
    "Classifier",
    "InferenceEngine",
    "Manifest",
    "Model",
    "load_artifact",
    "save_artifact",
]
