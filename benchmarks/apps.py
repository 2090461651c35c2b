"""The applications that the benchmarks compare, under uvicorn with the service's options.

``empty`` has the same body model and does nothing; ``empty_on_own_server`` is the same on the
service's own server, with its garbage collection and its limits on connections. ``textbook`` does
as FastAPI's and SQLAlchemy's tutorials show: a thread hop for the ML model, and a session with
``add``, ``commit`` and ``refresh`` for each request. ``ordinary_route`` and ``injected_session``
are the service itself, each without one of its decisions.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from iris_api.callers import ANONYMOUS_CALLER
from iris_api.database import (
    IrisFeatures,
    IrisPrediction,
    PredictionResponse,
    create_engine,
    create_session_factory,
    get_db,
)
from iris_api.inference import Model, load_artifact
from iris_api.iris import ClassPrediction
from iris_api.observability.metrics import Metrics
from iris_api.recording.rows import NewPrediction
from iris_api.resources import Resources
from iris_api.server.worker import application, with_server_lifespan
from iris_api.settings import load_settings
from iris_api.web.json_route import JsonRouteMiddleware


def empty() -> FastAPI:
    """An endpoint that validates its body and returns a constant."""
    app = FastAPI()

    @app.post("/predict")
    async def predict(features: IrisFeatures) -> dict[str, str]:
        return {"status": "ok"}

    return app


def empty_on_own_server() -> FastAPI:
    """The same, for ``python -m benchmarks.own_server``."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.resources = SimpleNamespace(metrics=Metrics(), is_stopping=False)
        yield

    app = empty()
    app.router.lifespan_context = with_server_lifespan(lifespan, load_settings())
    return app


def textbook() -> FastAPI:
    """Predict in the default thread pool, then store the row in the request's session."""
    settings = load_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = create_engine(settings)
        app.state.session_factory = create_session_factory(engine)
        app.state.model = load_artifact(settings.model_dir)
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/predict")
    async def predict(
        features: IrisFeatures, request: Request, db: Annotated[AsyncSession, Depends(get_db)]
    ) -> PredictionResponse:
        model: Model = request.app.state.model
        answer = await run_in_threadpool(ask, model, features)
        row = IrisPrediction.from_request(features, answer)
        db.add(row)
        await db.commit()
        await db.refresh(row)
        return PredictionResponse.model_validate(row)

    return app


def ordinary_route() -> FastAPI:
    """The service, with ``/predict`` on FastAPI's own route class."""
    app = application()

    async def predict(features: IrisFeatures) -> PredictionResponse:
        return await _predict(features, app.state.resources)

    return _replace_predict(app, predict)


def injected_session() -> FastAPI:
    """The same, with a session injected as in the history's endpoints; the recorder stores."""
    app = application()

    async def predict(
        features: IrisFeatures, db: Annotated[AsyncSession, Depends(get_db)]
    ) -> PredictionResponse:
        return await _predict(features, app.state.resources)

    return _replace_predict(app, predict)


def ask(model: Model, features: IrisFeatures) -> ClassPrediction:
    """One call of scikit-learn's own ``predict_proba`` for one row."""
    [row] = model.classifier.estimator.predict_proba([features.as_row()]).tolist()
    winner = row.index(max(row))
    classes, version = model.manifest.classes, model.manifest.version
    return ClassPrediction(winner, classes[winner], dict(zip(classes, row, strict=True)), version)


def _replace_predict(app: FastAPI, endpoint: Callable[..., Any]) -> FastAPI:
    """Serve ``/predict`` by this endpoint and FastAPI's route, without `JsonRouteMiddleware`."""
    app.user_middleware[:] = [
        layer for layer in app.user_middleware if cast(object, layer.cls) is not JsonRouteMiddleware
    ]
    app.router.routes.insert(0, APIRoute("/predict", endpoint, methods=["POST"]))
    return app


async def _predict(features: IrisFeatures, resources: Resources) -> PredictionResponse:
    row = features.as_row()
    answer = await resources.model.get().engine.predict(row)
    stored = await resources.recorder.record(NewPrediction(ANONYMOUS_CALLER, row, answer))
    return PredictionResponse(
        id=stored.id,
        prediction=answer.prediction,
        prediction_label=answer.label,
        probabilities=answer.probabilities,
        model_version=answer.model_version,
        created_at=stored.created_at,
    )
