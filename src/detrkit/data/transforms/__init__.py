"""Resizing, cropping and augmentation of images with their objects."""
