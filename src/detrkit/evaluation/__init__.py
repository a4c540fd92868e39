"""Detections -> numbers: the official COCO average precision, class by class, and what went wrong."""
