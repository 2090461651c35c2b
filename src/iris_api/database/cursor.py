"""The opaque cursor: a position in the history's order, the id of a page's last row."""

import base64
import binascii
from dataclasses import dataclass
from typing import Self
from uuid import UUID

_VERSION, _FORMER_VERSION = 2, 1
_BYTES = 17  # the version, the id; as many as a cursor of version 1, with time and number


class FormerCursorError(ValueError):
    """The cursor is of an earlier release, whose rows had other ids."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of a page. It names a row, not a count, so it is stable while rows arrive."""

    id: UUID

    def encode(self) -> str:
        """Return the cursor as text that needs no escaping in a URL."""
        packed = bytes([_VERSION]) + self.id.bytes
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read what `encode` wrote. Raises `FormerCursorError`; `ValueError` for anything else."""
        try:
            packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            raise ValueError("not a cursor") from None
        if len(packed) == _BYTES and packed[0] == _FORMER_VERSION:
            raise FormerCursorError("a cursor of an earlier release")
        if len(packed) != _BYTES or packed[0] != _VERSION:
            raise ValueError("not a cursor")
        cursor = cls(UUID(bytes=packed[1:]))
        if cursor.encode() != text:
            raise ValueError("not a cursor")
        return cursor
