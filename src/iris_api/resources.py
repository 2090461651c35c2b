"""What the process holds for all requests, and how an endpoint is handed it."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.auth.key_cache import Keyring
from iris_api.database.deps import get_db
from iris_api.database.session import SessionFactory
from iris_api.errors import ModelUnavailable
from iris_api.inference.artifact import Manifest
from iris_api.inference.engine import InferenceEngine
from iris_api.observability.metrics import Metrics
from iris_api.recording.readiness import DatabaseCheck
from iris_api.recording.recorder import Recorder


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model in memory, and the threads that run it."""

    manifest: Manifest
    engine: InferenceEngine


@dataclass(frozen=True, slots=True)
class Resources:
    """Made once, by the lifespan of `iris_api.app.create_app`."""

    metrics: Metrics
    session_factory: SessionFactory
    recorder: Recorder
    keyring: Keyring
    database_check: DatabaseCheck
    model: ServedModel | ModelUnavailable
    """The model, or why there is none; the service starts either way, and is not ready then."""
    open_access: bool
    """Whether requests need no API key."""
    root_path: str
    """What stands before the paths in an answer's links."""
    max_batch_items: int
    max_page_items: int

    def require_model(self) -> ServedModel:
        """The model. Raises `ModelUnavailable` where there is none."""
        if isinstance(self.model, ModelUnavailable):
            raise ModelUnavailable(self.model.detail)
        return self.model


def get_resources(request: Request) -> Resources:
    """The process's resources."""
    resources: Resources = request.app.state.resources
    return resources


def get_model(request: Request) -> ServedModel:
    """The served model. Raises `ModelUnavailable` where there is none."""
    return get_resources(request).require_model()


Session = Annotated[AsyncSession, Depends(get_db, scope="function")]
Model = Annotated[ServedModel, Depends(get_model)]
ProcessResources = Annotated[Resources, Depends(get_resources)]
