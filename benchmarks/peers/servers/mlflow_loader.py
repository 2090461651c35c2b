"""MLflow: the pyfunc loader module that the model folder names."""

from typing import Any

import numpy as np
from classifier import Classifier
from numpy.typing import NDArray


class IrisModel:
    """What MLflow calls for each request; it never sees more than one request at once."""

    def __init__(self, artifact: str) -> None:
        self._classifier = Classifier(artifact)

    def predict(self, model_input: NDArray[np.float64]) -> list[dict[str, Any]]:
        return self._classifier.classify(model_input)


def _load_pyfunc(path: str) -> IrisModel:
    return IrisModel(path)
