"""Drawings: images with detections, curves of runs, attention."""
