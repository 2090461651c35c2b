"""What the service costs, measured against other ways to do it, in the same run."""
