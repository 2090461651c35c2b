"""The query of a page of the history: a client's predictions, newest first, by any filters.

Each query needs an index for each partition, in the order of the ids: `IrisPrediction` has them.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, Subquery, any_, func, literal, select, true
from sqlalchemy.orm import aliased

from iris_api.database.cursor import Cursor
from iris_api.database.models import Client, IrisPrediction, MLModel
from iris_api.database.prediction_id import first_id_at
from iris_api.database.schema import PredictionFilters


def newest_first(
    client: str, filters: PredictionFilters, after: Cursor | None, count: int
) -> Select[IrisPrediction]:
    """Select the rows of a history; ``count`` is how many are read of it."""
    wanted = [IrisPrediction.client_id == client_id_of(client), *_in_time(filters, after)]
    if filters.reference is not None:
        wanted += [IrisPrediction.reference == filters.reference, *_in_answer(filters)]
    elif filters.label is not None and filters.model_version is not None:
        wanted += _in_answer(filters)
    elif filters.label is not None or filters.model_version is not None:
        return _merged(_labels_of_models(filters), wanted, count)
    return select(IrisPrediction).where(*wanted).order_by(IrisPrediction.id.desc())


def _merged(
    parts: Subquery, wanted: Sequence[ColumnElement[bool]], count: int
) -> Select[IrisPrediction]:
    """Select the newest rows of several labels and ML models: an index has each pair in order."""
    part = (
        select(IrisPrediction)
        .where(
            *wanted,
            IrisPrediction.prediction_label == parts.c.label,
            IrisPrediction.model_id == parts.c.model_id,
        )
        .order_by(IrisPrediction.id.desc())
        .limit(count)
        .lateral()
    )
    row = aliased(IrisPrediction, part)
    return select(row).select_from(parts).join(part, true()).order_by(row.id.desc())


def _labels_of_models(filters: PredictionFilters) -> Subquery:
    """Select the pairs of ``label`` and ``model_id`` that a label or an ML model may have."""
    if filters.label is None:
        label = func.unnest(MLModel.labels).label("label")
        of_version = MLModel.version == filters.model_version
        return select(label, MLModel.id.label("model_id")).where(of_version).subquery()
    has_label = (literal(filters.label) == any_(MLModel.labels)) | MLModel.version.is_(None)
    label = literal(filters.label).label("label")
    return select(label, MLModel.id.label("model_id")).where(has_label).subquery()


def _in_answer(filters: PredictionFilters) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if filters.label is not None:
        conditions.append(IrisPrediction.prediction_label == filters.label)
    if filters.model_version is not None:
        version = select(MLModel.id).where(MLModel.version == filters.model_version)
        conditions.append(IrisPrediction.model_id == version.scalar_subquery())
    return conditions


def _in_time(filters: PredictionFilters, after: Cursor | None) -> list[ColumnElement[bool]]:
    """Return the conditions on a row's id, which holds its time."""
    bounds = []
    if after is not None:
        bounds.append(IrisPrediction.id < after.id)
    if filters.since is not None:
        bounds.append(IrisPrediction.id >= first_id_at(filters.since))
    if filters.until is not None:
        bounds.append(IrisPrediction.id < first_id_at(filters.until))
    return bounds


def client_id_of(client: str) -> ColumnElement[int]:
    """Select the client's number; NULL, which no row has, if it has not predicted yet."""
    return select(Client.id).where(Client.name == client).scalar_subquery()
