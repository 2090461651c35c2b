"""The database session of an endpoint, as a dependency. Commands import this without FastAPI."""

from collections.abc import AsyncIterator

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.requests import Request

from iris_api.database.session import SessionFactory, create_engine, create_session_factory
from iris_api.settings import load_settings


async def get_db(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield the request's session; closing it afterwards rolls back what is not committed.

    It never commits: a response must not be sent before its commit, but in FastAPI's default scope
    this code resumes only after the response was sent. `iris_api.database.crud` commits instead,
    before the endpoint returns. With ``scope="function"`` the session is closed before the response
    is sent, so a client that reads slowly does not hold its connection.
    """
    async with session_factory_of(request.app)() as session:
        yield session


def session_factory_of(app: Starlette) -> SessionFactory:
    """Return the application's session factory, ``app.state.session_factory``.

    `iris_api.app.create_app` sets it. Another application without one gets one at its first
    request, for ``IRIS_DATABASE_URL``; it lives as long as the process.
    """
    factory: SessionFactory | None = getattr(app.state, "session_factory", None)
    if factory is None:
        factory = create_session_factory(create_engine(load_settings()))
        app.state.session_factory = factory
    return factory
