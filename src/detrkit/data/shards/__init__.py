"""Packed data sets: tar files of images and annotations, with an index that is read without taking memory."""
