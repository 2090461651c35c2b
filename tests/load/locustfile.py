"""A realistic mix for `make load`: mostly single predictions, some batches, some history walks."""

import random
from http import HTTPStatus

from locust import FastHttpUser, between, task

RANGES = {
    "sepal_length": (4.3, 7.9),
    "sepal_width": (2.0, 4.4),
    "petal_length": (1.0, 6.9),
    "petal_width": (0.1, 2.5),
}
"""The ranges of the iris data, in centimetres."""


def flower() -> dict[str, float]:
    return {name: round(random.uniform(*limits), 1) for name, limits in RANGES.items()}


class Visitor(FastHttpUser):
    """Predicts, now and then in bulk, and leafs back through the history."""

    wait_time = between(0.01, 0.1)

    @task(20)
    def predict(self) -> None:
        self.client.post("/predict", json=flower())

    @task(2)
    def predict_batch(self) -> None:
        self.client.post("/predict/batch", json={"items": [flower() for _ in range(100)]})

    @task(1)
    def walk_history(self) -> None:
        """Read three pages, each by the cursor of the one before, then one prediction of them."""
        params = {"limit": "50"}
        items: list[dict[str, int]] = []
        for _ in range(3):
            response = self.client.get("/predictions", params=params, name="/predictions")
            if response.status_code != HTTPStatus.OK:
                return  # locust has counted the failure
            page = response.json()
            items += page["items"]
            if page["next_cursor"] is None:
                break
            params["cursor"] = page["next_cursor"]
        if items:
            self.client.get(f"/predictions/{items[-1]['id']}", name="/predictions/{id}")
