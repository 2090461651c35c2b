"""The two applications that the service is compared with.

``empty`` has the same body model and does nothing. ``textbook`` is the honest reference: the way
that FastAPI's and SQLAlchemy's own tutorials show, a thread hop for the model and a session with
``add``, ``commit`` and ``refresh`` for each request. Both run under the same server and settings.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from iris_api.database import (
    IrisFeatures,
    IrisPrediction,
    PredictionResponse,
    create_engine,
    create_session_factory,
    get_db,
)
from iris_api.inference import Classifier, load_artifact
from iris_api.settings import load_settings


def empty() -> FastAPI:
    """An endpoint that validates its body and answers."""
    app = FastAPI()

    @app.post("/predict")
    async def predict(features: IrisFeatures) -> dict[str, str]:
        return {"status": "ok"}

    return app


def textbook() -> FastAPI:
    """Predict in the default thread pool, then store the row in a session of the request's own."""
    settings = load_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = create_engine(settings)
        app.state.session_factory = create_session_factory(engine)
        app.state.classifier = load_artifact(settings.model_dir).classifier
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/predict")
    async def predict(
        features: IrisFeatures, request: Request, db: Annotated[AsyncSession, Depends(get_db)]
    ) -> PredictionResponse:
        classifier: Classifier = request.app.state.classifier
        [answer] = await run_in_threadpool(classifier.predict, [features.as_row()])
        row = IrisPrediction.from_request(features, answer)
        db.add(row)
        await db.commit()
        await db.refresh(row)
        return PredictionResponse.model_validate(row)

    return app
