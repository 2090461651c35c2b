"""Iris API: predictions over HTTP, each committed to PostgreSQL before it is answered."""

__version__ = "0.2.0"
