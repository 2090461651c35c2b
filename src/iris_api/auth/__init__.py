"""API keys, their cache, and rate limits."""
