"""Metrics of detections: COCO average precision, panoptic quality, thresholds, confusion, and the worst mistakes."""
