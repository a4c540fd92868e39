"""Readers of the annotation formats, one file each."""
