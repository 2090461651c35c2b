"""What is known of an ML model: its card, which clients read, and its manifest, a file."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

MANIFEST_NAME = "manifest.json"
QUANTILES = tuple(round(step / 10, 1) for step in range(11))
"""The quantiles of each feature in a card: the deciles, with both ends."""
_PICKLES = {".joblib", ".pickle", ".pkl"}
_SAVED = re.compile(r".+-[0-9a-f]{12}\.joblib")
"""The name of a file that `iris_api.inference.saving.save_artifact` has written."""


class FeatureSummary(BaseModel):
    """One feature's values in the training rows, in the feature's unit."""

    model_config = ConfigDict(frozen=True)

    name: str
    minimum: float
    maximum: float
    quantiles: dict[str, float] = Field(description="The deciles, from 0.0 to 1.0")


class Scores(BaseModel):
    """A classifier's scores on rows that it was not fitted on."""

    model_config = ConfigDict(frozen=True)

    accuracy: float
    log_loss: float
    brier_score: float = Field(description="Multiclass Brier score: 0 is best, 2 is worst")
    calibration_error: float = Field(
        description="Expected calibration error of the top class, in ten bins of equal size"
    )


class ModelCard(BaseModel):
    """The ML model's card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(description="The estimator's name and the first digits of the digest")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="Digest of the file")]
    file: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]+\.joblib$")]
    estimator: str = Field(description="scikit-learn's own description of the estimator")
    classes: Annotated[list[str], Field(min_length=2)]
    features: list[FeatureSummary]
    libraries: dict[str, str] = Field(description="The versions that wrote the file")
    python: str
    trained_at: AwareDatetime
    training_rows: int
    scores: dict[str, Scores] = Field(
        description="By candidate, from cross-validation; empty for a model brought from elsewhere"
    )
    calibration: str = Field(description="How the probabilities were calibrated, and why")


class ProbeRow(BaseModel):
    """A row and the probabilities that the ML model gave for it when it was saved."""

    model_config = ConfigDict(frozen=True)

    features: list[float]
    probabilities: list[float]


class Manifest(ModelCard):
    """The card, and what loading needs. Release 0.1.0 wrote the card alone."""

    columns: list[str] | None = Field(
        None,
        description="The features in the order of the estimator's columns; null: the service's",
    )
    frame: list[str] | None = Field(
        None, description="The columns of the pandas frame that the estimator takes; null: an array"
    )
    probe_rows: list[ProbeRow] = []


def unlisted_models(folder: Path) -> list[Path]:
    """The pickles in the folder that `save_artifact` did not write: the service ignores them."""
    return sorted(
        path
        for path in folder.glob("*")
        if path.suffix in _PICKLES and not _SAVED.fullmatch(path.name)
    )
