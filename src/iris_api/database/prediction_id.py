"""A prediction's id: a UUID of version 7 (RFC 9562), which holds the time at which it was made.

PostgreSQL mints it from its own clock, by the function ``iris_prediction_id`` of the schema: 48
bits of milliseconds, 12 bits of the rest to the microsecond (section 6.2, method 3), 62 random
bits. So ids are in the order of time, and tell nothing of how many others there are.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PARTS = 4096  # of a millisecond, in 12 bits
_VERSION, _VARIANT = 0x7, 0b10


def first_id_at(instant: datetime) -> UUID:
    """Return the least id that a prediction made then can have; earlier ones have lesser ids.

    Before 1970, which no id can hold, it is the least of all UUIDs.
    """
    milliseconds, microseconds = divmod((instant - _EPOCH) // _MICROSECOND, 1000)
    if milliseconds < 0:
        return UUID(int=0)
    part = microseconds * _PARTS // 1000
    return UUID(int=milliseconds << 80 | _VERSION << 76 | part << 64 | _VARIANT << 62)


def time_of(prediction_id: UUID) -> datetime:
    """Return when the prediction was made, to the microsecond."""
    milliseconds, part = prediction_id.int >> 80, prediction_id.int >> 64 & (_PARTS - 1)
    microseconds = -(-part * 1000 // _PARTS)
    return _EPOCH + timedelta(milliseconds=milliseconds, microseconds=microseconds)
