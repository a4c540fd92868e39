"""From annotation files to batches.

`formats.detect.open_dataset` detects the format and loads raw records, `validation.validate.check_dataset` turns them
into checked `records`, and `dataset`, `transforms` and `loader` make batches of these.
"""
