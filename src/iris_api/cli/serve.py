"""``iris-api serve``."""

from iris_api import signals
from iris_api.cli.console import begin
from iris_api.cli.migrate import migrate_database
from iris_api.cli.train import train_if_missing, warn_of_unlisted_models
from iris_api.database.session import require_durable
from iris_api.embedded.postgres import provide_database
from iris_api.server.listener import listen
from iris_api.server.run import run, when_ready


def serve(*, prepare: bool) -> None:
    """Serve until a signal. First migrate and train, if ``prepare`` or the database is embedded."""
    settings, console = begin()
    # If the port cannot be had, say so before anything is prepared. But keep it closed until then:
    # a client would wait for its answer as long as the service waits for PostgreSQL.
    listen(settings).close()
    with provide_database(settings, exclusive=True, report=console.info) as with_database:
        warn_of_unlisted_models(settings, console)
        if prepare or settings.database_url is None:
            migrate_database(with_database, console)
            train_if_missing(settings, console)
        signals.run(require_durable(with_database))
        with listen(settings) as listener:
            when_ready(listener, console.print_ready)
            run(with_database, listener)
