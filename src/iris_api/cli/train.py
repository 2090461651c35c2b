"""``iris-api train``."""

from collections.abc import Iterable

import typer

from iris_api.cli.console import Console, begin
from iris_api.errors import ConfigurationError
from iris_api.inference import training
from iris_api.inference.manifest import Scores
from iris_api.settings import Settings


def train(candidate: str | None) -> None:
    """Train the candidate; None: the best. Raises `typer.BadParameter` for an unknown one."""
    if candidate is not None and candidate not in training.CANDIDATES:
        raise typer.BadParameter(
            f"There is no such candidate. Take one of {', '.join(training.CANDIDATES)}."
        )
    settings, console = begin()
    train_model(settings, console, candidate)
    console.info("A service that runs already takes it when it is restarted")


def train_model(settings: Settings, console: Console, candidate: str | None = None) -> None:
    """Train into the settings' folder, and print each score."""
    names = [*training.CANDIDATES, *_calibrated(training.CANDIDATES)]
    width = max(map(len, names))

    def report(name: str, scores: Scores) -> None:
        console.info(
            f"{name:<{width}}  accuracy {scores.accuracy:.3f}  log loss {scores.log_loss:.4f}",
            event="candidate_scored",
            candidate=name,
            accuracy=scores.accuracy,
            log_loss=scores.log_loss,
        )

    console.info("Training an ML model, scored by cross-validation", event="training_started")
    try:
        manifest = training.train(settings.model_dir, candidate=candidate, report=report)
    except OSError as error:
        raise ConfigurationError(
            f"The model could not be written to {settings.model_dir}: {error.strerror}. "
            "Set IRIS_DATA_DIR to a folder that can be written."
        ) from None
    console.info(
        f"The ML model is {manifest.version}, in {settings.model_dir.resolve()}",
        event="model_trained",
        model_version=manifest.version,
    )


def _calibrated(candidates: Iterable[str]) -> list[str]:
    """The names of all that `training.train` may report beside the candidates."""
    return [f"{name}+{method}" for name in candidates for method in training.CALIBRATIONS]
