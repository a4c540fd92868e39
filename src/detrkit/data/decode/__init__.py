"""Image and mask files as arrays."""
