"""The HTTP endpoints, a file for each resource. Handlers translate; they never decide."""
