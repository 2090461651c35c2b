"""What is stored, and how a test keeps it from being stored for a while."""

import threading

from sqlalchemy import URL
from tests.conftest import execute
from tests.e2e.service import poll_until
from tests.integration.support import fetch


def count_predictions(database: URL) -> int:
    [(count,)] = fetch(database, "SELECT count(*) FROM iris_predictions")
    return int(count)


class HeldUp:
    """No row can be inserted for so many seconds, from another thread, from now on.

    In ``ACCESS EXCLUSIVE`` mode, none can be read either.
    """

    def __init__(self, database: URL, seconds: float, mode: str = "SHARE") -> None:
        statement = (
            f"BEGIN; LOCK iris_predictions IN {mode} MODE; SELECT pg_sleep({seconds}); COMMIT"
        )
        self._thread = threading.Thread(target=execute, args=(database, statement))
        self._database = database
        self._mode = mode.title().replace(" ", "") + "Lock"

    def __enter__(self) -> None:
        self._thread.start()
        poll_until(self._is_held, "the table is locked")

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _is_held(self) -> bool:
        query = (
            "SELECT mode FROM pg_locks WHERE granted AND relation = 'iris_predictions'::regclass"
        )
        return (self._mode,) in fetch(self._database, query)
