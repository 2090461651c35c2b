"""The resources that all requests of a process share, as dependencies for endpoints."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Self, cast

import anyio
import structlog
from fastapi import Depends, Request
from sqlalchemy import QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine

from iris_api.auth.key_cache import ApiKeyCache
from iris_api.database.partitions import PartitionHorizon
from iris_api.database.session import SessionFactory, create_engine, create_session_factory
from iris_api.errors import ModelUnavailable
from iris_api.inference.engine import InferenceEngine
from iris_api.inference.loading import load_artifact
from iris_api.inference.manifest import Manifest
from iris_api.observability.metrics import Metrics
from iris_api.recording.readiness import DatabaseCheck
from iris_api.recording.recorder import Recorder
from iris_api.settings import Settings

_DISPOSE_SECONDS = 1.0
log = structlog.get_logger("iris_api")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An ML model in memory, and the threads that run it."""

    manifest: Manifest
    engine: InferenceEngine


class ModelHolder:
    """Holds the ML model in use; another may replace it while requests run."""

    def __init__(self, served: ServedModel | ModelUnavailable, metrics: Metrics) -> None:
        self._metrics = metrics
        self._set(served)

    @property
    def waiting_rows(self) -> int:
        """How many rows wait for the ML model."""
        return self._served.engine.waiting_rows if isinstance(self._served, ServedModel) else 0

    def get(self) -> ServedModel:
        """The ML model in use. Raises `ModelUnavailable` if there is none.

        Use it before the next ``await``: after that, another one may be in use.
        """
        if isinstance(self._served, ModelUnavailable):
            raise ModelUnavailable(self._served.detail)
        return self._served

    async def swap(self, served: ServedModel) -> None:
        """Use this ML model from now on; return when the previous one has answered its queue."""
        before = self._served
        self._set(served)
        if isinstance(before, ServedModel):
            await before.engine.aclose(cancel_queued=False)

    def _set(self, served: ServedModel | ModelUnavailable) -> None:
        self._served = served
        if isinstance(served, ServedModel):
            self._metrics.set_model(served.manifest.version, served.manifest.sha256)

    async def aclose(self) -> None:
        """Refuse new rows, answer the accepted ones, and end the ML model's threads."""
        if isinstance(self._served, ServedModel):
            await self._served.engine.aclose()


@dataclass(slots=True)
class Resources:
    """The lifespan of `iris_api.app.create_app` makes them and closes them."""

    settings: Settings
    metrics: Metrics
    engine: AsyncEngine
    session_factory: SessionFactory
    horizon: PartitionHorizon
    recorder: Recorder
    api_key_cache: ApiKeyCache
    database_check: DatabaseCheck
    model: ModelHolder
    is_stopping: bool = False
    """Whether shutdown has begun; the service is not ready then."""

    @classmethod
    async def from_settings(cls, settings: Settings, metrics: Metrics) -> Self:
        """Build all of them, and load the ML model. Connects to PostgreSQL at first use.

        Does not fail without the database or the ML model: then the service is not ready.
        """
        engine = create_engine(settings)
        session_factory = create_session_factory(engine)
        horizon = PartitionHorizon()
        recorder = Recorder(
            engine,
            horizon=horizon,
            max_group=settings.max_batch,
            max_waiting=settings.max_waiting,
            max_wait_seconds=settings.max_wait,
            max_in_flight=settings.database_groups_in_flight,
            metrics=metrics,
        )
        resources = cls(
            settings=settings,
            metrics=metrics,
            engine=engine,
            session_factory=session_factory,
            horizon=horizon,
            recorder=recorder,
            api_key_cache=ApiKeyCache(session_factory, ttl_seconds=settings.key_cache_seconds),
            database_check=DatabaseCheck(
                session_factory,
                recorder.recent_failure,
                horizon,
                timeout_seconds=settings.readiness_timeout,
            ),
            model=ModelHolder(await load_model(settings, metrics), metrics),
        )
        _read_gauges_of(resources)
        return resources

    async def aclose(self) -> None:
        """Refuse new work, finish the accepted work, and close the database connections.

        SQLAlchemy closes them one after the other, and waits up to 4 s for each if PostgreSQL is
        frozen. After `_DISPOSE_SECONDS`, the rest is left to the end of the process.
        """
        await self.model.aclose()
        await self.recorder.aclose()
        await self.api_key_cache.aclose()
        await self.database_check.aclose()
        with suppress(TimeoutError), anyio.fail_after(_DISPOSE_SECONDS):
            await self.engine.dispose()


async def load_model(settings: Settings, metrics: Metrics) -> ServedModel | ModelUnavailable:
    """The ML model of the settings' folder; or why it cannot be served, which is also logged."""
    load = partial(load_artifact, settings.model_dir, expected_sha256=settings.model_sha256)
    try:
        loaded = await anyio.to_thread.run_sync(load)
    except ModelUnavailable as problem:
        log.error("model_refused", detail=problem.detail)  # noqa: TRY400, expected: no traceback
        return problem
    engine = InferenceEngine(
        loaded.classifier,
        threads=settings.inference_threads,
        max_batch=settings.max_batch,
        max_waiting=settings.max_waiting,
        max_wait_seconds=settings.max_wait,
        metrics=metrics,
    )
    return ServedModel(loaded.manifest, engine)


def _read_gauges_of(resources: Resources) -> None:
    metrics, recorder, model = resources.metrics, resources.recorder, resources.model
    pool = cast(QueuePool, resources.engine.pool)
    metrics.read_at_scrape(metrics.connections_in_use, pool.checkedout)
    metrics.read_at_scrape(metrics.connections_limit, pool.size)
    horizon = resources.horizon
    metrics.read_at_scrape(metrics.months_ahead, lambda: horizon.months_ahead)
    for queue, count in (
        ("inference", lambda: model.waiting_rows),
        ("commit", lambda: recorder.waiting_rows),
    ):
        metrics.read_at_scrape(metrics.waiting_rows.labels(queue), count)


def get_resources(request: Request) -> Resources:
    """The process's resources, ``app.state.resources``."""
    resources: Resources = request.app.state.resources
    return resources


def get_model(request: Request) -> ServedModel:
    """The served ML model. Raises `ModelUnavailable` if there is none."""
    return get_resources(request).model.get()


Model = Annotated[ServedModel, Depends(get_model)]
ProcessResources = Annotated[Resources, Depends(get_resources)]
