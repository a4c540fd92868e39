"""Box arithmetic: pure functions over tensors whose last dimension is 4.

The one convention of this package: boxes are `x1, y1, x2, y2` in absolute pixels, x to the right and y downwards,
x2 and y2 exclusive. The single exception is what the model speaks (its outputs and the training targets):
`cx, cy, w, h` relative to the picture without padding, in 0..1. COCO's `x, y, w, h` exists only in files.
"""
