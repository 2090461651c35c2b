"""MLServer: a runtime that answers label and probabilities from a single model call."""

from classifier import Classifier
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class IrisRuntime(MLModel):
    """Replaces mlserver_sklearn, which runs the model once for each requested output."""

    async def load(self) -> bool:
        self._classifier = Classifier(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        values = tensor.data.root
        count, width = tensor.shape
        rows = [values[start : start + width] for start in range(0, count * width, width)]
        answers = self._classifier.classify(rows)
        labels = [str(answer["label"]) for answer in answers]
        probabilities = [value for answer in answers for value in answer["probabilities"]]
        classes = len(probabilities) // count
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                ResponseOutput(name="label", shape=[count, 1], datatype="BYTES", data=labels),
                ResponseOutput(
                    name="probabilities",
                    shape=[count, classes],
                    datatype="FP64",
                    data=probabilities,
                ),
            ],
        )
