"""``iris-api serve``."""

import signal

from iris_api import signals
from iris_api.cli.console import Console, begin
from iris_api.cli.migrate import migrate_database
from iris_api.cli.ready import report_when_ready
from iris_api.database.session import require_durable
from iris_api.embedded.postgres import provide_database
from iris_api.environment import set_variables
from iris_api.model_files import MANIFEST_NAME, unlisted_models
from iris_api.server.listener import listen
from iris_api.server.run import run
from iris_api.settings import Settings, export_settings


def serve(*, prepare: bool, host: str | None, port: int | None, workers: int | None) -> None:
    """Serve until a signal. First migrate and train, if ``prepare`` or the database is embedded.

    ``host``, ``port`` and ``workers`` replace the settings of these names.
    """
    options = {"host": host, "port": port, "workers": workers}
    set_variables({name: str(value) for name, value in options.items() if value is not None})
    settings, console = begin()
    signals.report_first(lambda number: _report_stopping(settings, console, number))
    try:
        _serve(settings, console, prepare=prepare)
    except SystemExit as end:
        if end.code:  # it has failed, and has said why
            raise
    console.log.info("stopped", message="Stopped")


def _serve(settings: Settings, console: Console, *, prepare: bool) -> None:
    # If the port cannot be had, say so before anything is prepared. But keep it closed until then:
    # a client would wait for its answer as long as the service waits for PostgreSQL.
    listen(settings).close()
    with provide_database(settings, exclusive=True, report=console.info) as with_database:
        _warn_of_unlisted_models(settings, console)
        if prepare or settings.database_url is None:
            migrate_database(with_database, console)
            _train_if_missing(settings, console)
        signals.run(require_durable(with_database))
        with listen(settings) as listener:
            report_when_ready(listener, console)
            export_settings(with_database)
            run(with_database, listener)


def _report_stopping(settings: Settings, console: Console, number: int) -> None:
    console.log.info(
        "stopping",
        message=f"Stopping: requests under way have up to {settings.shutdown_timeout} s to finish",
        signal=signal.Signals(number).name,
    )


def _warn_of_unlisted_models(settings: Settings, console: Console) -> None:
    """Say how to bring in a model file that somebody has put beside the manifest."""
    for path in unlisted_models(settings.model_dir):
        console.warn(
            f"{path} has no manifest, so it is not served. To serve it, run in Python "
            f"iris_api.inference.save_artifact({str(path)!r}, rows, labels, {str(path.parent)!r}) "
            "with its training rows and the labels of its classes (docs/models.md). Then, or if "
            "you do not need it, move it away",
            event="model_without_manifest",
        )


def _train_if_missing(settings: Settings, console: Console) -> None:
    """Train, unless an ML model exists or one is pinned, which training could not reproduce."""
    if settings.model_sha256 is None and not (settings.model_dir / MANIFEST_NAME).exists():
        # Only now: a parent of workers needs no scikit-learn, which takes seconds and memory.
        from iris_api.cli.train import train_model  # noqa: PLC0415

        train_model(settings, console)
