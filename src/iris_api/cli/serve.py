"""``iris-api serve``."""

from iris_api import signals
from iris_api.cli.console import begin
from iris_api.cli.migrate import migrate_database
from iris_api.cli.train import train_if_missing, warn_of_unlisted_models
from iris_api.database.session import require_durable
from iris_api.embedded.postgres import provide_database
from iris_api.server.listener import bind, listen
from iris_api.server.run import run, when_ready


def serve(*, prepare: bool) -> None:
    """Serve until a signal. First migrate and train, if ``prepare`` or the database is embedded."""
    settings, console = begin()
    with (
        bind(settings) as listener,
        provide_database(settings, exclusive=True, report=console.info) as with_database,
    ):
        warn_of_unlisted_models(settings, console)
        if prepare or settings.database_url is None:
            migrate_database(with_database, console)
            train_if_missing(settings, console)
        signals.run(require_durable(with_database))
        if settings.database_url is not None:
            console.warn(
                "fsync, full_page_writes and synchronous_commit are looked at; what cannot be: "
                "whether the disk keeps what it confirms, and whether a standby has it before a "
                "failover (docs/promises.md)",
                event="durability_partly_checked",
            )
        listen(listener, settings)
        when_ready(listener, console.print_ready)
        run(with_database, listener)
