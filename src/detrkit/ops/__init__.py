"""Pure functions on boxes, masks, values and text."""
