"""What can be looked at: images with detections, curves of runs, attention."""
