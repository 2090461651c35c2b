"""The samples that the tests send. A fork changes them here."""

import json

from iris_api.iris import EXAMPLE

JSON = "application/json"

SETOSA: dict[str, float] = EXAMPLE.model_dump()
VIRGINICA = {"sepal_length": 6.3, "sepal_width": 3.3, "petal_length": 6.0, "petal_width": 2.5}
POISON = {**SETOSA, "sepal_length": 6.66}
"""The fixture `poisoned` has PostgreSQL refuse this one's row."""
KILLER = {**SETOSA, "sepal_length": 7.77}
"""The fixture `poisoned` has PostgreSQL break off at this one's row."""


def flower(**tokens: str) -> str:
    """A flower as JSON text, with the given tokens in the place of its values."""
    values = {name: json.dumps(value) for name, value in SETOSA.items()} | tokens
    return "{" + ", ".join(f'"{name}": {token}' for name, token in values.items()) + "}"
