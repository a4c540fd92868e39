"""Checks of annotations and images before training."""
