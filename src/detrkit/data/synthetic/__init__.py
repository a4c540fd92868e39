"""A generated data set for the demo and tests."""
