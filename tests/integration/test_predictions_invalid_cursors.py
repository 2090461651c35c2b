import base64
from collections.abc import Callable

import asyncpg
import pytest
import pytest_asyncio
from httpx2 import AsyncClient
from tests.support.application import assert_problem, store

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cursor(shared_client: AsyncClient, shared_connection: asyncpg.Connection) -> str:
    for _ in range(2):
        await store(shared_connection)
    page = (await shared_client.get("/predictions", params={"limit": 1})).json()
    text: str = page["next_cursor"]
    return text


def _changed(position: int, byte: int) -> Callable[[str], str]:
    def change(cursor: str) -> str:
        content = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        content[position] = byte
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    return change


MUTILATIONS: dict[str, Callable[[str], str]] = {
    "its first half": lambda cursor: cursor[: len(cursor) // 2],
    "its second half": lambda cursor: cursor[len(cursor) // 2 :],
    "one letter short": lambda cursor: cursor[:-1],
    "twice": lambda cursor: cursor * 2,
    "padded": lambda cursor: cursor + "=" * (-len(cursor) % 4 or 4),
    "with a space": lambda cursor: cursor[:4] + " " + cursor[4:],
    "with another letter": lambda cursor: cursor[:4] + "!" + cursor[5:],
    "all zeros": lambda cursor: "A" * len(cursor),
    "all ones": lambda cursor: "_" * len(cursor),
    "of another version": _changed(0, 3),
}


@pytest.mark.parametrize("mutilate", MUTILATIONS.values(), ids=MUTILATIONS)
async def test_predictions_with_an_altered_cursor_is_422(
    shared_client: AsyncClient, cursor: str, mutilate: Callable[[str], str]
) -> None:
    assert (await shared_client.get("/predictions", params={"cursor": cursor})).status_code == 200
    response = await shared_client.get("/predictions", params={"cursor": mutilate(cursor)})
    assert_problem(response, 422, "invalid-request", field="cursor")
    assert mutilate(cursor) not in response.text


async def test_predictions_with_a_cursor_of_an_earlier_release_is_400(
    shared_client: AsyncClient, cursor: str
) -> None:
    former = _changed(0, 1)(cursor)
    response = await shared_client.get("/predictions", params={"cursor": former})
    assert "Start again" in assert_problem(response, 400, "cursor-outdated")["detail"]


async def test_predictions_with_cursor_and_skip_is_422(
    shared_client: AsyncClient, cursor: str
) -> None:
    response = await shared_client.get("/predictions", params={"cursor": cursor, "skip": 1})
    assert_problem(response, 422, "invalid-request", field="skip")
