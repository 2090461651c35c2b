"""The opaque cursor: a position in the history's order, (created_at, id)."""

import base64
import binascii
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

_VERSION = 1
_LAYOUT = struct.Struct(">Bqq")  # version, microseconds since the epoch, id
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of a page. It names a row, not a count, so it is stable while rows arrive."""

    created_at: datetime
    id: int

    def encode(self) -> str:
        """Return the cursor as text that needs no escaping in a URL."""
        microseconds = (self.created_at - _EPOCH) // _MICROSECOND
        packed = _LAYOUT.pack(_VERSION, microseconds, self.id)
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read what `encode` wrote. Raises `ValueError` for anything else."""
        try:
            packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            version, microseconds, row_id = _LAYOUT.unpack(packed)
            cursor = cls(_EPOCH + microseconds * _MICROSECOND, row_id)
        except (binascii.Error, struct.error, OverflowError):
            raise ValueError("not a cursor") from None
        if version != _VERSION or row_id < 0 or cursor.encode() != text:
            raise ValueError("not a cursor")
        return cursor
