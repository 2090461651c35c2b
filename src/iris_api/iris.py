"""The domain, in one place: the features, their unit and bounds, the labels, an example.

A fork for another tabular model begins here (docs/fork.md). Imports only pydantic.
"""

from typing import Annotated, Any, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, create_model

Row: TypeAlias = tuple[float, ...]
"""The features of one sample, in the order of `FEATURE_NAMES`."""
Centimetres = Annotated[float, Field(strict=True, gt=0, le=100, allow_inf_nan=False)]

DESCRIPTION = "Predictions of an iris flower's species from four measures in centimetres."
"""What the service is for: the first sentence of its OpenAPI document."""

LABELS = ("setosa", "versicolor", "virginica")
"""The classes of the training data, in the order of its targets."""


class IrisFeatures(BaseModel):
    """The four measures of a flower, in centimetres."""

    model_config = ConfigDict(title="Features", extra="forbid")

    sepal_length: Centimetres = Field(description="Length of the sepal, in centimetres")
    sepal_width: Centimetres = Field(description="Width of the sepal, in centimetres")
    petal_length: Centimetres = Field(description="Length of the petal, in centimetres")
    petal_width: Centimetres = Field(description="Width of the petal, in centimetres")

    def as_row(self) -> Row:
        """The features in the order of the model's columns."""
        return tuple(map(self.__dict__.__getitem__, FEATURE_NAMES))


FEATURE_NAMES = tuple(IrisFeatures.model_fields)
"""The columns of the ML model, of the table and of a `Row`, in order."""
EXAMPLE = IrisFeatures(sepal_length=5.1, sepal_width=3.5, petal_length=1.4, petal_width=0.2)
"""A sample for documentation, and for the trial that `/readyz` makes."""

_UNBOUNDED: dict[str, Any] = {
    name: (field.annotation, Field(description=field.description))
    for name, field in IrisFeatures.model_fields.items()
}
StoredFeatures = create_model("StoredFeatures", **_UNBOUNDED)
"""The features of a stored row, without bounds: rows stored under older bounds stay readable."""


class ClassPrediction(NamedTuple):
    """A classifier's prediction for one row."""

    prediction: int
    """The class, as its position in the classifier's classes."""
    label: str
    probabilities: dict[str, float] | None
    """By label, in the order of the classes, with the sum 1; None where they were not computed."""
    model_version: str | None
