"""Looks into PostgreSQL at the moment an answer begins."""

from dataclasses import dataclass

import asyncpg
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OPEN = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND backend_xid IS NOT NULL
"""


@dataclass(frozen=True)
class Sighting:
    """What PostgreSQL showed to others when the head of an answer was about to leave."""

    open_writes: int
    """Transactions that have written, and are not at their end."""
    rows: int
    """Predictions that others see."""


class Witness:
    """An application with a look before each ``http.response.start``, while that one waits."""

    def __init__(self, app: ASGIApp, connection: asyncpg.Connection) -> None:
        self.app = app
        self.connection = connection
        self.sightings: list[Sighting] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_when_seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.sightings.append(await self.snapshot())
            await send(message)

        await self.app(scope, receive, send_when_seen)

    async def snapshot(self) -> Sighting:
        return Sighting(
            open_writes=await self.connection.fetchval(_OPEN),
            rows=await self.connection.fetchval("SELECT count(*) FROM iris_predictions"),
        )
