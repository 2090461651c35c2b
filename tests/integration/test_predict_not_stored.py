"""What a trigger, a rule or a policy drops or changes is refused, and its neighbours are stored."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest
from httpx2 import AsyncClient, Response
from sqlalchemy.ext.asyncio import AsyncSession
from tests.integration.repeats import ask
from tests.support.application import (
    PARTITION,
    assert_problem,
    client_of,
    count_rows,
    make_key,
    started,
)
from tests.support.flowers import SETOSA, VIRGINICA

from iris_api.database import IrisFeatures, IrisPrediction, create_prediction
from iris_api.errors import NotStored
from iris_api.iris import ClassPrediction
from iris_api.settings import Settings

TRIGGER = """
    CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.petal_width > 2 THEN {} END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER meddle BEFORE INSERT ON iris_predictions
    FOR EACH ROW EXECUTE FUNCTION meddle();
"""
TRIGGER_OF_PARTITION = TRIGGER.replace("ON iris_predictions", f"ON {PARTITION}")
HARMS = {
    "trigger drops": TRIGGER.format("RETURN NULL;"),
    "trigger stores elsewhere": "CREATE TABLE elsewhere (LIKE iris_predictions);"
    + TRIGGER.format("INSERT INTO elsewhere VALUES (NEW.*); RETURN NULL;"),
    "trigger of the partition drops": TRIGGER_OF_PARTITION.format("RETURN NULL;"),
    "trigger rounds a feature": TRIGGER.format("NEW.petal_width := round(NEW.petal_width);"),
    "trigger changes the label": TRIGGER.format("NEW.prediction_label := 'Virginica';"),
    "trigger drops the probabilities": TRIGGER.format("NEW.class_probabilities := NULL;"),
    "trigger of the partition drops the probabilities": TRIGGER_OF_PARTITION.format(
        "NEW.class_probabilities := NULL;"
    ),
    "trigger changes the client": TRIGGER.format("NEW.client_id := NEW.client_id + 1;"),
    "trigger changes the ML model": TRIGGER.format("NEW.model_id := NEW.model_id + 1;"),
    "trigger changes the reference": TRIGGER.format("NEW.reference := 'other';"),
    "trigger changes the id": TRIGGER.format("NEW.id := iris_prediction_id();"),
    "trigger backdates": TRIGGER.format("NEW.created_at := '-infinity';"),
}
"""Each of them is done to `VIRGINICA`, and not to `SETOSA`."""
Ask: TypeAlias = Callable[[AsyncClient], Awaitable[list[Response]]]


async def ask_alone(client: AsyncClient) -> list[Response]:
    return [await ask(client, None, flower) for flower in (SETOSA, VIRGINICA)]


async def ask_alone_with_keys(client: AsyncClient) -> list[Response]:
    return [await ask(client, name, flower) for name, flower in (("a", SETOSA), ("b", VIRGINICA))]


async def ask_together(client: AsyncClient) -> list[Response]:
    flowers = [VIRGINICA if number % 8 == 7 else SETOSA for number in range(64)]
    return await asyncio.gather(*(ask(client, None, flower) for flower in flowers))


async def ask_together_with_keys(client: AsyncClient) -> list[Response]:
    flowers = [VIRGINICA if number % 8 == 7 else SETOSA for number in range(64)]
    keys = [f"key-{number}" if number % 3 else None for number in range(64)]
    return await asyncio.gather(*map(ask, [client] * 64, keys, flowers))


async def ask_for_a_batch(client: AsyncClient) -> list[Response]:
    body = {"items": [SETOSA, VIRGINICA, SETOSA]}
    return [await ask(client, None, body, "/predict/batch")]


async def ask_for_a_batch_with_a_key(client: AsyncClient) -> list[Response]:
    body = {"items": [SETOSA, VIRGINICA, SETOSA]}
    return [await ask(client, "batch", body, "/predict/batch") for _ in range(2)]


WAYS = [
    ask_alone,
    ask_alone_with_keys,
    ask_together,
    ask_together_with_keys,
    ask_for_a_batch,
    ask_for_a_batch_with_a_key,
]


@pytest.fixture(params=["off", "keys"])
async def caller(
    request: pytest.FixtureRequest, settings: Settings, keyed: Settings
) -> AsyncIterator[AsyncClient]:
    """A client without an API key, or with one."""
    own, headers = settings, {}
    if request.param == "keys":
        own, headers = keyed, await make_key(keyed)
    async with started(own) as app, client_of(app, **headers) as client:
        yield client


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
@pytest.mark.parametrize("way", WAYS)
async def test_predict_with_a_row_dropped_or_changed_by_a_trigger_is_500_and_stores_none_of_it(
    caller: AsyncClient, connection: asyncpg.Connection, way: Ask, harm: str
) -> None:
    await connection.execute(harm)
    responses = await way(caller)
    refused = [response for response in responses if response.status_code != 200]
    assert refused
    for response in refused:
        detail = assert_problem(response, 500, "not-stored")["detail"]
        assert "Nothing was stored." in detail
        assert "triggers, rules, row-level security policies" in detail
    answered = {UUID(one.json()["id"]) for one in responses if one.status_code == 200}
    rows = await connection.fetch("SELECT id, petal_width FROM iris_predictions")
    assert {row["id"] for row in rows} == answered
    assert {row["petal_width"] for row in rows} <= {SETOSA["petal_width"]}
    keys = await connection.fetch("SELECT unnest(prediction_ids) AS id FROM idempotency_keys")
    assert {row["id"] for row in keys} <= answered


@pytest.mark.parametrize(
    "name", [name for name in HARMS if name not in {"trigger backdates", "trigger changes the id"}]
)  # it sends no time and no id
async def test_create_prediction_with_a_row_dropped_or_changed_by_a_trigger_raises_not_stored(
    session: AsyncSession, connection: asyncpg.Connection, name: str
) -> None:
    await connection.execute(HARMS[name])
    with pytest.raises(NotStored, match=r"Nothing was stored\."):
        await create_prediction(session, of(VIRGINICA), client="customer")
    assert await count_rows(connection) == 0
    await create_prediction(session, of(SETOSA), client="customer")
    assert await count_rows(connection) == 1


async def test_create_prediction_with_the_ml_model_exchanged_by_a_trigger_raises_not_stored(
    session: AsyncSession, connection: asyncpg.Connection
) -> None:
    await connection.execute(TRIGGER.format("NEW.model_id := 1;"))
    with pytest.raises(NotStored, match="other values than were sent"):
        await create_prediction(session, of(VIRGINICA))
    assert await count_rows(connection) == 0


def of(flower: dict[str, float]) -> IrisPrediction:
    answer = ClassPrediction(2, "virginica", {"virginica": 1.0}, None)
    return IrisPrediction.from_request(IrisFeatures(**flower), answer)


async def test_predict_with_a_trigger_without_effect_is_200(
    client: AsyncClient, connection: asyncpg.Connection
) -> None:
    await connection.execute(TRIGGER.format("NEW.petal_width := NEW.petal_width;"))
    for way in WAYS:
        assert {response.status_code for response in await way(client)} == {200}


RULES = {
    "drops": "DO INSTEAD NOTHING",
    "drops some": "WHERE new.petal_width > 2 DO INSTEAD NOTHING",
    "stores twice": "DO ALSO INSERT INTO copies VALUES (new.id)",
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("way", WAYS)
async def test_predict_with_a_rule_is_500_or_stores_all_rows(
    client: AsyncClient, connection: asyncpg.Connection, way: Ask, rule: str
) -> None:
    """A rule may keep rows from an INSERT; COPY passes some by, as PostgreSQL documents it."""
    await connection.execute("CREATE TABLE copies (id uuid)")
    await connection.execute(f"CREATE RULE meddle AS ON INSERT TO iris_predictions {rule}")
    is_batch = way in (ask_for_a_batch, ask_for_a_batch_with_a_key)
    responses = await way(client)
    for response in responses:
        if response.status_code != 200:
            assert_problem(response, 500, "not-stored")
    is_stored = is_batch and responses[0].status_code == 200
    assert await count_rows(connection) == (3 if is_stored else 0)
    assert await connection.fetchval("SELECT count(*) FROM idempotency_keys") <= is_stored


KEY_HARMS = {
    "drops": "RETURN NULL;",
    "changes the key": "NEW.key := lower(NEW.key); RETURN NEW;",
    "changes the ids": "NEW.prediction_ids := ARRAY[gen_random_uuid()]; RETURN NEW;",
}


@pytest.mark.parametrize("harm", KEY_HARMS.values(), ids=KEY_HARMS)
@pytest.mark.parametrize(("path", "body"), [("/predict", SETOSA), ("/predict/batch", None)])
async def test_predict_with_an_idempotency_key_changed_by_a_trigger_stores_nothing(
    client: AsyncClient, connection: asyncpg.Connection, harm: str, path: str, body: Any
) -> None:
    await connection.execute(f"""
        CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {harm} END $$;
        CREATE TRIGGER meddle BEFORE INSERT ON idempotency_keys
        FOR EACH ROW EXECUTE FUNCTION meddle();
    """)
    for _ in range(2):
        response = await ask(client, "My-Key", body or {"items": [SETOSA] * 2}, path)
        assert response.status_code in {500, 503}
        detail = response.json()["detail"]
        assert "Nothing was stored." in detail
        assert "idempotency_keys" in detail
    assert await count_rows(connection) == 0
    assert (await ask(client, None)).status_code == 200


@pytest.mark.parametrize(("path", "body"), [("/predict", SETOSA), ("/predict/batch", None)])
async def test_predict_with_the_idempotency_key_of_a_deleted_row_is_422(
    client: AsyncClient, connection: asyncpg.Connection, path: str, body: Any
) -> None:
    body = body or {"items": [SETOSA, VIRGINICA]}
    first = await ask(client, "mine", body, path)
    number = first.json().get("id") or first.json()["items"][1]["id"]
    await connection.execute("DELETE FROM iris_predictions WHERE id = $1", number)
    again = await ask(client, "mine", body, path)
    detail = assert_problem(again, 422, "idempotency-key-reused")["detail"]
    assert "deleted" in detail
    assert "new key" in detail
