"""HTTP plumbing, without a route and without SQL."""
