import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from iris_api.errors import NotPredicted
from iris_api.inference import Classifier, InferenceEngine
from iris_api.iris import ClassPrediction, Row
from iris_api.observability.metrics import Metrics


class Crowded(Classifier):
    """Notes its threads, and whether more calls than ``limit`` are ever under way together."""

    def __init__(self, classifier: Classifier, limit: int) -> None:
        super().__init__(classifier.estimator, classes=classifier.classes, version="crowded-1")
        self.threads: set[int] = set()
        self.too_many = False
        self._meeting = threading.Barrier(limit + 1)

    def predict(self, rows: NDArray[np.float64]) -> list[ClassPrediction]:
        self.threads.add(threading.get_ident())
        try:
            self._meeting.wait(0.2)
            self.too_many = True
        except threading.BrokenBarrierError:
            pass  # nobody came, as it should be
        return super().predict(rows)


class Broken(Classifier):
    def predict(self, rows: NDArray[np.float64]) -> list[ClassPrediction]:
        raise ArithmeticError(f"{len(rows)} rows are too many")


@pytest.fixture
def classifier(estimator: Any, labels: list[str]) -> Classifier:
    return Classifier(estimator, classes=labels, version="test-1")


ROW: Row = (5.1, 3.5, 1.4, 0.2)


def engine_of(
    classifier: Classifier, metrics: Metrics, *, threads: int = 1, max_batch: int = 256
) -> InferenceEngine:
    return InferenceEngine(
        classifier,
        threads=threads,
        max_batch=max_batch,
        max_waiting=1024,
        max_wait_seconds=60,
        metrics=metrics,
    )


@pytest.mark.parametrize("threads", [1, 2])
async def test_inference_engine_answers_each_caller_on_at_most_the_set_number_of_threads(
    classifier: Classifier, metrics: Metrics, rows: NDArray[np.float64], threads: int
) -> None:
    crowded = Crowded(classifier, threads)
    engine = engine_of(crowded, metrics, threads=threads, max_batch=5)
    requests: list[Row] = [tuple(row) for row in rows[::5]]
    answers = await asyncio.gather(*[engine.predict(request) for request in requests])
    expected = classifier.predict(np.array(requests))
    assert [answer.label for answer in answers] == [answer.label for answer in expected]
    assert not crowded.too_many
    assert threading.get_ident() not in crowded.threads


async def test_inference_engine_with_concurrent_rows_predicts_them_in_one_call(
    classifier: Classifier, metrics: Metrics
) -> None:
    engine = engine_of(classifier, metrics)
    await asyncio.gather(*[engine.predict(ROW) for _ in range(64)])
    assert metrics.registry.get_sample_value("iris_inference_duration_seconds_count") == 1
    assert metrics.registry.get_sample_value("iris_inference_rows_sum") == 64


async def test_inference_engine_records_the_duration_of_each_call(
    classifier: Classifier, metrics: Metrics
) -> None:
    engine = engine_of(classifier, metrics)
    for _ in range(3):
        await engine.predict(ROW)
    count = metrics.registry.get_sample_value("iris_inference_duration_seconds_count")
    assert count == 3


class Picky(Classifier):
    """Gives no prediction for a petal longer than 50 cm, and fails for one longer than 60 cm."""

    def predict(self, rows: NDArray[np.float64]) -> list[ClassPrediction]:
        wrong = np.flatnonzero(rows[:, 2] > 50).tolist()
        if rows[:, 2].max() > 60:
            raise ArithmeticError("too long")
        if wrong:
            raise NotPredicted(self.version, wrong)
        return super().predict(rows)


@pytest.fixture
def picky(classifier: Classifier) -> Classifier:
    return Picky(classifier.estimator, classes=classifier.classes, version="picky-1")


FAR: Row = (5.1, 3.5, 51.0, 0.2)
FARTHER: Row = (5.1, 3.5, 61.0, 0.2)


@pytest.mark.parametrize("farther", [{0}, {1, 3}, {4}, {0, 1, 2, 3, 4}])
async def test_inference_engine_with_rows_for_which_the_model_fails_fails_their_callers_alone(
    picky: Classifier, metrics: Metrics, farther: set[int]
) -> None:
    requests = [FARTHER if turn in farther else ROW for turn in range(5)]
    engine = engine_of(picky, metrics)
    answers = await asyncio.gather(*map(engine.predict, requests), return_exceptions=True)
    failed = {turn for turn, answer in enumerate(answers) if isinstance(answer, ArithmeticError)}
    assert failed == farther
    others = [answer for answer in answers if isinstance(answer, ClassPrediction)]
    assert [answer.label for answer in others] == ["setosa"] * (5 - len(farther))


@pytest.mark.parametrize("far", [{0}, {1, 3}, {4}, {0, 1, 2, 3, 4}])
async def test_inference_engine_with_rows_without_probabilities_fails_their_callers_alone(
    picky: Classifier, metrics: Metrics, rows: NDArray[np.float64], far: set[int]
) -> None:
    requests = [FAR if turn in far else tuple(rows[50 * turn % 150]) for turn in range(5)]
    engine = engine_of(picky, metrics)
    answers = await asyncio.gather(*map(engine.predict, requests), return_exceptions=True)
    labels = ["setosa", "versicolor", "virginica", "setosa", "versicolor"]
    for turn, (answer, label) in enumerate(zip(answers, labels, strict=True)):
        if turn in far:
            assert isinstance(answer, NotPredicted)
            assert "picky-1 gives no probabilities for these features" in answer.detail
        else:
            assert isinstance(answer, ClassPrediction)
            assert answer.label == label


async def test_inference_engine_predict_many_with_rows_without_probabilities_names_them(
    picky: Classifier, metrics: Metrics
) -> None:
    with pytest.raises(NotPredicted, match=r"items\[1\], items\[3\], "):
        await engine_of(picky, metrics).predict_many([ROW, FAR, ROW, FAR])


async def test_inference_engine_with_a_failing_classifier_raises_its_error(
    classifier: Classifier, metrics: Metrics
) -> None:
    broken = Broken(classifier.estimator, classes=classifier.classes, version="broken-1")
    with pytest.raises(ArithmeticError, match="1 rows are too many"):
        await engine_of(broken, metrics).predict(ROW)
    count = metrics.registry.get_sample_value("iris_inference_duration_seconds_count")
    assert count == 1
