"""The parts of the SQL that stores predictions, derived from the table and the domain.

Each statement is given values, of which it makes rows with ids and the numbers of clients and ML
models, and compares what PostgreSQL stored with these.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy.dialects import postgresql

from iris_api.database.failures import NOT_AS_SENT, UNKNOWN_NAME
from iris_api.database.models import IrisPrediction
from iris_api.iris import FEATURE_NAMES
from iris_api.recording.rows import NewPrediction

AS_SENT = (*FEATURE_NAMES, "prediction", "prediction_label", "class_probabilities", "reference")
"""The columns whose values are sent as they are."""
COLUMNS = (*AS_SENT, "client_id", "model_id")
"""The columns that a statement fills."""
COLUMN_LIST = ", ".join(COLUMNS)
PARAMETERS = (*AS_SENT, "client", "model_version")
"""What a statement is given: parameter ``$n`` is the nth. More parameters follow."""
PARAMETER_LIST = ", ".join(PARAMETERS)
_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]
# An array of probabilities goes as text: PostgreSQL takes apart no array of arrays.
_AS_TEXT = {"class_probabilities": "TEXT", "client": "TEXT", "model_version": "TEXT"}
_TYPES = _AS_TEXT | {
    name: IrisPrediction.__table__.c[name].type.compile(_POSTGRESQL)
    for name in AS_SENT
    if name not in _AS_TEXT
}


def values(new: NewPrediction) -> tuple[Any, ...]:
    """Return the values of `PARAMETERS`."""
    answer = new.answer
    probabilities = answer.probabilities
    return (
        *new.row,
        answer.prediction,
        answer.label,
        None if probabilities is None else f"{{{','.join(map(repr, probabilities.values()))}}}",
        new.reference,
        new.caller.client,
        answer.model_version,
    )


def parameter(position: int) -> str:
    """Return the parameter ``position`` places after those of `PARAMETERS`, from 1."""
    return f"${len(PARAMETERS) + position}"


# Without the casts, each parameter takes its column's type in the database, which may round.
_CASTS = [f"${number}::{_TYPES[name]}" for number, name in enumerate(PARAMETERS, start=1)]
VALUES = ", ".join(_CASTS)
"""The parameters that take one row's `values`."""
ARRAYS = ", ".join(f"{cast}[]" for cast in _CASTS)
"""The parameters that take the rows' `arrays`."""


def _fail(message: str) -> str:
    """Return an expression that fails when it is evaluated, with its text in the message.

    Plain SQL has no RAISE. ``format`` keeps PostgreSQL from evaluating it at planning time.
    """
    return f"format('{message}')::boolean"


FAIL = _fail(NOT_AS_SENT)


def values_of(table: str) -> str:
    """Return a table's or subquery's columns to compare."""
    return ", ".join(f"{table}.{name}" for name in COLUMNS)


def new_rows(given: str, *more: str) -> str:
    """Return the SELECT of new rows, each with its id, from a FROM item named ``given``.

    ``more`` are columns of that item to keep.
    """
    added = "".join(f", given.{name}" for name in more)
    as_sent = ", ".join(
        f"given.{name}{'::float8[]' * (name == 'class_probabilities')}" for name in AS_SENT
    )
    return f"""
        SELECT iris_prediction_id() AS id, {as_sent},
            clients.id AS client_id,
            CASE WHEN given.model_version IS NULL THEN 1 ELSE models.id END AS model_id{added}
        FROM {given}
        LEFT JOIN clients ON clients.name = given.client
        LEFT JOIN models ON models.version = given.model_version
    """  # noqa: S608, of constants, like those below


def insert_of(rows: str) -> str:
    """Return the INSERT of rows that are `new_rows`; it fails if a name of theirs is unknown."""
    return f"""
        INSERT INTO iris_predictions (id, {COLUMN_LIST})
        SELECT id, {COLUMN_LIST} FROM {rows}
        WHERE CASE
            WHEN client_id IS NULL OR model_id IS NULL
            THEN {_fail(UNKNOWN_NAME)} ELSE true END
        RETURNING id, created_at, {COLUMN_LIST}
    """  # noqa: S608


def insert_statement(given: str, order: str = "") -> str:
    """Return the INSERT of the rows of a FROM item.

    The statement may be its own transaction, so it fails by itself if a stored row differs.
    """
    return f"""
        WITH new AS MATERIALIZED ({new_rows(given, *(["position"] if order else []))}),
        stored AS ({insert_of("new")})
        SELECT new.id, stored.created_at
        FROM new LEFT JOIN stored USING (id)
        WHERE CASE
            WHEN ({values_of("stored")}, created_at)
                IS NOT DISTINCT FROM ({values_of("new")}, now())
            THEN true ELSE {FAIL} END
        {order}
    """  # noqa: S608


def arrays(group: Iterable[NewPrediction]) -> list[list[Any]]:
    """Return the rows' values as one array for each of `PARAMETERS`."""
    return [list(column) for column in zip(*map(values, group), strict=True)]
