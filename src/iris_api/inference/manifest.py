"""What is known of an ML model: its card, which clients read, and its manifest, a file."""

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

QUANTILES = tuple(round(step / 10, 1) for step in range(11))
"""The quantiles of each feature in a card: the deciles, with both ends."""


class FeatureSummary(BaseModel):
    """One feature's values in the training rows, in the feature's unit."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="As in the body of `POST /predict`")
    minimum: float = Field(description="In the feature's unit, as are the others")
    maximum: float = Field(description="In the feature's unit")
    quantiles: dict[str, float] = Field(description="The deciles, from 0.0 to 1.0")


class Scores(BaseModel):
    """A classifier's scores on rows that it was not fitted on."""

    model_config = ConfigDict(frozen=True)

    accuracy: float = Field(description="Share of rows whose class is right: 1 is best")
    log_loss: float = Field(description="Mean negative log-likelihood, in nats: 0 is best")
    brier_score: float = Field(description="Multiclass Brier score: 0 is best, 2 is worst")
    calibration_error: float = Field(
        description="Expected calibration error of the top class, in ten bins of equal size"
    )


class ModelCard(BaseModel):
    """The ML model's card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(description="The estimator's name, and digits of the file and the classes")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="Digest of the file")]
    file: Annotated[
        str, Field(pattern=r"^[0-9A-Za-z_-]+\.joblib$", description="Its name, without a folder")
    ]
    estimator: str = Field(description="scikit-learn's own description of the estimator")
    classes: Annotated[
        list[str], Field(min_length=2, description="The labels; a `prediction` is a position here")
    ]
    features: list[FeatureSummary] = Field(description="In the order of the ML model's columns")
    libraries: dict[str, str] = Field(description="The versions that wrote the file")
    python: str = Field(description="The version of Python that wrote the file")
    trained_at: AwareDatetime = Field(description="When the file was written")
    training_rows: int = Field(description="How many rows it was fitted on")
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
