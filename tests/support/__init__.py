"""What the suites share, named by thing. Suites import from here, not from each other."""
