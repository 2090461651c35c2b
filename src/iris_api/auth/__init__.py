"""Who may ask: API keys, their cache, and rate limits."""
