"""The samples that the tests send. A fork changes them here."""

from iris_api.iris import EXAMPLE

SETOSA: dict[str, float] = EXAMPLE.model_dump()
VIRGINICA = {"sepal_length": 6.3, "sepal_width": 3.3, "petal_length": 6.0, "petal_width": 2.5}
POISON = {**SETOSA, "sepal_length": 6.66}
"""The fixture `poisoned` has PostgreSQL refuse this one's row."""
KILLER = {**SETOSA, "sepal_length": 7.77}
"""The fixture `poisoned` has PostgreSQL break off at this one's row."""
