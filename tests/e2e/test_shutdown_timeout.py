"""What is not done when the grace period ends."""

import asyncio
import signal
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.e2e.rows import HeldUp
from tests.e2e.stopping import LONG, assert_ends
from tests.support.application import fetch
from tests.support.proxy import Proxy
from tests.support.raw import GET, connected, predict
from tests.support.service import Service, poll_until, serving

PATIENT = {f"{wait}_timeout": LONG for wait in ("request", "database_command", "database_lock")}
GET_ALL = GET.replace(b"/livez", b"/predictions")


@pytest.mark.parametrize(
    ("asked", "mode", "slug", "told"),
    [
        (predict(), "SHARE", "outcome-unknown", "Idempotency-Key"),
        (GET_ALL, "ACCESS EXCLUSIVE", "deadline-exceeded", "Nothing was stored"),
    ],
)
def test_request_unfinished_at_the_shutdown_timeout_is_503_with_its_outcome(
    folder: Path, database: URL, data_dir: Path, asked: bytes, mode: str, slug: str, told: str
) -> None:
    with (
        serving(
            folder, database, data_dir=data_dir, shutdown_delay=0, shutdown_timeout=1, **PATIENT
        ) as service,
        connected(service) as raw,
    ):
        with HeldUp(database, mode=mode):
            raw.send(asked)
            poll_until(lambda: is_blocked(database), "the request waits for the lock")
            service.process.send_signal(signal.SIGTERM)
            detail = raw.refusal(503, slug)["detail"]
        assert "The service is stopping" in detail
        assert told in detail
        assert_ends(service, 1)


def is_blocked(database: URL) -> bool:
    return fetch(database, "SELECT count(*) FROM pg_locks WHERE NOT granted") != [(0,)]


async def test_serve_at_sigterm_with_an_unresponsive_database_stops_in_time(
    folder: Path, database: URL, data_dir: Path
) -> None:
    async with Proxy.before(database) as proxy:
        url = proxy.url.render_as_string(hide_password=False)
        service = Service.start(
            folder, database_url=url, data_dir=data_dir, shutdown_delay=0, shutdown_timeout=1
        )
        try:
            await asyncio.to_thread(service.until_ready)
            async with service.client() as client:  # each leaves a connection in the pool
                await asyncio.gather(*(client.get("/predictions") for _ in range(8)))
            proxy.swallow()
            service.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(assert_ends, service, 1)
        finally:
            service.clean_up()
