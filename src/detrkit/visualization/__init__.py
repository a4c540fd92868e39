"""What can be looked at: pictures with detections, curves of runs, attention."""
