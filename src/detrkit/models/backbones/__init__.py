"""Backbones: images to feature maps; and their pretrained weights."""
