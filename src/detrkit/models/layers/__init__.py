"""Layers that several parts of a model are made of."""
