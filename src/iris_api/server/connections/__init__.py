"""Bounds on connections, which uvicorn has none of: how many, how slow, how large a head."""

from iris_api.server.connections.keeper import Connections
from iris_api.server.connections.protocol import BoundedProtocol

__all__ = ["BoundedProtocol", "Connections"]
