"""A client's transport: what is written leaves together, and what is read can be held up."""

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl


class JoiningTransport:
    """A client's transport, in which an answer's head waits for its body, and they leave as one.

    uvicorn writes the one after the other, and the second system call and packet cost a prediction
    8 us. Nothing waits for longer than the loop's present turn.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._kept = b""
        self.is_closing = transport.is_closing
        self.abort = transport.abort

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write this along with what was kept; where nothing was, keep it."""
        if self._kept:
            kept, self._kept = self._kept, b""
            self._transport.writelines([kept, data])
        else:
            self._kept = data
            self._loop.call_soon(self._write_kept)

    def close(self) -> None:
        """Close the connection once all is written."""
        self._write_kept()
        self._transport.close()

    def _write_kept(self) -> None:
        if self._kept and not self.is_closing():
            kept, self._kept = self._kept, b""
            self._transport.write(kept)


class HoldingFlow(FlowControl):
    """uvicorn's flow control; while `is_held`, nothing that uvicorn does makes it read on."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self.is_held = False
        self.times_drained = 0

    def resume_writing(self) -> None:
        """Write on: the client has read what filled the buffer."""
        self.times_drained += 1
        super().resume_writing()

    def resume_reading(self) -> None:
        """Read on, unless reading is held."""
        if self.read_paused and not self.is_held:
            super().resume_reading()
