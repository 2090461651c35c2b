"""The session that an endpoint is given."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.database.session import SessionFactory, create_engine, create_session_factory
from iris_api.settings import load_settings


async def get_db(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield the request's session; close it, and so roll back what is not committed, afterwards.

    It never commits: an answer must not leave before its commit, and with FastAPI's own scope for a
    dependency this code runs again only after the answer has left. So `iris_api.database.crud`
    commits, before the endpoint returns. With ``scope="function"`` the session is closed before
    the answer is sent, and no client who reads slowly keeps its connection.
    """
    async with session_factory_of(request.app)() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_db, scope="function")]
"""For an endpoint's parameter."""


def session_factory_of(app: FastAPI) -> SessionFactory:
    """The application's session factory, ``app.state.session_factory``.

    `iris_api.app.create_app` puts it there. An application of somebody else's that has none gets
    one at its first request, for ``IRIS_DATABASE_URL``; it lives as long as the process.
    """
    factory: SessionFactory | None = getattr(app.state, "session_factory", None)
    if factory is None:
        factory = create_session_factory(create_engine(load_settings()))
        app.state.session_factory = factory
    return factory
