"""The HTTP layer below the endpoints: no endpoint and no SQL."""
