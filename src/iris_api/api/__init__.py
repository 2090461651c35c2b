"""The HTTP interface, a file for each resource. Handlers translate; they never decide."""
