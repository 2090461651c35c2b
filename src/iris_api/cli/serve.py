"""``iris-api serve``."""

from iris_api import signals
from iris_api.cli.console import begin
from iris_api.cli.migrate import migrate_database
from iris_api.cli.train import train_if_missing
from iris_api.database.session import refuse_unsafe
from iris_api.embedded.postgres import database_of
from iris_api.server.listener import listen
from iris_api.server.run import call_when_answering, run


def serve(*, prepare: bool) -> None:
    """Serve until a signal comes; with ``prepare``, migrate and train first, where needed."""
    settings, narrator = begin()
    with (
        listen(settings) as listener,
        database_of(settings, exclusive=True, report=narrator.tell) as with_database,
    ):
        if prepare or settings.database_url is None:
            migrate_database(with_database, narrator)
            train_if_missing(settings, narrator)
        signals.run(refuse_unsafe(with_database))
        if settings.database_url is not None:
            narrator.warn(
                "fsync, full_page_writes and synchronous_commit are looked at; what cannot be: "
                "whether the disk keeps what it confirms, and whether a standby has it before a "
                "failover (docs/promises.md)"
            )
        call_when_answering(listener, narrator.greet)
        run(with_database, listener)
