"""The write path: group commit, COPY, and idempotency."""
