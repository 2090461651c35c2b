"""What a command tells while it works: lines for a person, or log events, as the format asks."""

import json
from typing import Any

import structlog
from rich.console import Console
from rich.markup import escape

from iris_api.inference.artifact import Scores
from iris_api.settings import Settings

_EXAMPLE = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}


class Narrator:
    """Speaks on standard output; the service's own log goes to standard error."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.console = Console(highlight=False, soft_wrap=True)
        self.log = structlog.get_logger("iris_api")

    def tell(self, message: str) -> None:
        """Say what has just happened."""
        if self.settings.log_format == "json":
            self.log.info(message)
        else:
            self.console.print(f"[green]•[/green] {escape(message)}")

    def tell_scores(self, name: str, scores: Scores) -> None:
        """Say how a candidate did."""
        self.tell(f"  {name:<30} accuracy {scores.accuracy:.3f}  log loss {scores.log_loss:.4f}")

    def greet(self, url: str, *, ready: bool, body: dict[str, Any]) -> None:
        """Say where the service answers and how to try it, or why it is not ready."""
        if not ready:
            self.tell(f"{url} is alive, but not ready: {body['detail']}")
            return
        settings = self.settings
        if settings.log_format == "json":
            self.log.info("ready", url=url)
            return
        database = (
            "PostgreSQL at IRIS_DATABASE_URL"
            if settings.database_url
            else settings.data_dir / "postgres"
        )
        self.console.print(
            f"""
[bold]Ready on {url}[/bold]   (its documentation: {url}/docs)

Try it:
  curl {url}/predict -H 'Content-Type: application/json' -d '{json.dumps(_EXAMPLE)}'
  curl {url}/predictions

The predictions are in {database}, the model in {settings.model_dir}. Ctrl-C stops all of it.
"""
        )
