"""Clients and ML models by name: a prediction's row holds their numbers.

Each is there before its first row. Nothing is cached, because after a restore of the database a
number may be another's.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from sqlalchemy import Select, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from iris_api.database.failures import translates_write_failures
from iris_api.database.models import Client, MLModel
from iris_api.errors import DatabaseUnavailable, NotStored

T = TypeVar("T")


@translates_write_failures
async def ensure_names(
    session: AsyncSession, client: str, model_version: str | None, labels: Sequence[str]
) -> None:
    """Commit this client and, if it has a version, this ML model; either may be known.

    ``labels`` are those of the ML model's probabilities, in their order. Raises `NotStored` if
    ``models`` has others for this version: stored probabilities would be read back under those.
    """
    await ensure_client(session, client)
    if model_version is not None:
        model = await ensure_model(session, model_version, labels)
        if model.labels[: len(labels)] != list(labels):
            raise NotStored(f"models has other labels for the ML model {model_version}.")
    await session.commit()


async def ensure_client(session: AsyncSession, name: str) -> int:
    """Return the client's number; insert the client if it is new. Does not commit."""
    find = select(Client.id).where(Client.name == name)
    number = await session.scalar(find)
    if number is None:
        await session.execute(insert(Client).values(name=name).on_conflict_do_nothing())
        number = await _inserted(session, find)
    return number


async def ensure_model(
    session: AsyncSession, version: str | None, labels: Iterable[str]
) -> MLModel:
    """Return the ML model of this version, with at least these labels. Does not commit.

    Known labels keep their places: stored probabilities are in their order. A model without a
    version is known by its labels.
    """
    wanted = list(dict.fromkeys(labels))
    find = select(MLModel).where(MLModel.version == version)
    if version is None:
        find = select(MLModel).where(MLModel.version.is_(None), MLModel.labels == wanted)
    model = await session.scalar(find)
    if model is None:
        new = insert(MLModel).values(version=version, labels=wanted)
        await session.execute(new.on_conflict_do_nothing())
        model = await _inserted(session, find)
    if not set(wanted) <= set(model.labels):  # only then wait for others that add labels
        fresh = find.with_for_update().execution_options(populate_existing=True)
        model = await _inserted(session, fresh)
        model.labels = list(dict.fromkeys([*model.labels, *wanted]))
    return model


async def _inserted(session: AsyncSession, find: Select[T]) -> T:
    """Return what was just inserted. Raises `DatabaseUnavailable` if PostgreSQL dropped it."""
    found: T | None = await session.scalar(find)
    if found is None:
        raise DatabaseUnavailable(
            "PostgreSQL took no note of a new client or ML model. Nothing was stored. Look at the "
            "triggers, rules and row-level security policies of clients and models."
        )
    return found
