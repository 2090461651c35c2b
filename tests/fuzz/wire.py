"""The bytes of requests, well formed or not."""

from collections.abc import Sequence

Header = tuple[bytes, bytes]

JSON: Header = (b"Content-Type", b"application/json")
CHUNKED: Header = (b"Transfer-Encoding", b"chunked")
REQUEST_ID: Header = (b"X-Request-ID", b"fuzz")
"""No answer has a random id in it, so a value that was sent can only be there as an echo."""


def head(path: str, *headers: Header) -> bytes:
    lines = [b"POST %s HTTP/1.1" % path.encode(), b"Host: localhost"]
    lines += [name + b": " + value for name, value in (REQUEST_ID, *headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def length_of(body: bytes) -> Header:
    return b"Content-Length", b"%d" % len(body)


def request(path: str, body: bytes, *headers: Header) -> bytes:
    """A request of one piece, its length announced."""
    return head(path, *headers, length_of(body)) + body


def in_chunks(body: bytes, sizes: Sequence[int], extension: bytes = b"") -> list[bytes]:
    """The body as chunks of these sizes, over and over, and the end."""
    chunks: list[bytes] = []
    while body:
        size = sizes[len(chunks) % len(sizes)]
        piece, body = body[:size], body[size:]
        chunks.append(b"%X%s\r\n%s\r\n" % (len(piece), extension, piece))
    return [*chunks, b"0\r\n\r\n"]
