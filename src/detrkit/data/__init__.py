"""Files to batches.

`find.open_dataset` finds the format and reads what the files say (`coco`, `voc`, `yolo`), `check.check_dataset` turns
that into clean `records`, and everything after it (`dataset`, `transforms`, `loader`) relies on them.
"""
