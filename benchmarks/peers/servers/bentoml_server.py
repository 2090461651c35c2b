"""BentoML: one batchable endpoint; BentoML's dispatcher stacks the rows of open requests."""

from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType
from classifier import Classifier, setting

# Naming the content type spares BentoML from building a JSON schema for every answer.
Predictions = Annotated[list[dict[str, Any]], ContentType("application/json")]


@bentoml.service(
    workers=1,
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    monitoring={"enabled": False},
    tracing={"excluded_urls": ["classify"]},
)
class Iris:
    """Runs the model on the event loop: a thread hop would only cost time on one core."""

    def __init__(self) -> None:
        self._classifier = Classifier(setting("PEER_ARTIFACT"))

    @bentoml.api(
        batchable=True,
        max_batch_size=int(setting("PEER_BATCH_SIZE")),
        max_latency_ms=int(setting("PEER_MAX_LATENCY_MS")),
    )
    async def classify(self, rows: list[list[float]]) -> Predictions:
        return self._classifier.classify(rows)
