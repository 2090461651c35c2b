"""Benchmarks: the service's costs against other ways to do it, in the same run."""
