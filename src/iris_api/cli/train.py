"""``iris-api train``."""

from collections.abc import Iterable

import typer

from iris_api.cli.console import Console, begin
from iris_api.errors import ConfigurationError
from iris_api.inference import training
from iris_api.inference.manifest import MANIFEST_NAME, Scores, unlisted_models
from iris_api.settings import Settings


def train(candidate: str | None) -> None:
    """Train the candidate; None: the best. Raises `typer.BadParameter` for an unknown one."""
    if candidate is not None and candidate not in training.CANDIDATES:
        raise typer.BadParameter(
            f"There is no such candidate. Take one of {', '.join(training.CANDIDATES)}."
        )
    settings, console = begin()
    _train(settings, console, candidate)
    console.info("A service that runs already takes it when it is restarted")


def warn_of_unlisted_models(settings: Settings, console: Console) -> None:
    """Say how to bring in a model file that somebody has put beside the manifest."""
    for path in unlisted_models(settings.model_dir):
        console.warn(
            f"{path} has no manifest, so it is not served. To serve it, run in Python "
            f"iris_api.inference.save_artifact({str(path)!r}, rows, labels, {str(path.parent)!r}) "
            "with its training rows and the labels of its classes (docs/models.md). Then, or if "
            "you do not need it, move it away",
            event="model_without_manifest",
        )


def train_if_missing(settings: Settings, console: Console) -> None:
    """Train, unless an ML model exists or one is pinned, which training could not reproduce."""
    if settings.model_sha256 is None and not (settings.model_dir / MANIFEST_NAME).exists():
        _train(settings, console, None)


def _train(settings: Settings, console: Console, candidate: str | None) -> None:
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
