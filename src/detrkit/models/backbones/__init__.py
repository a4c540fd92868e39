"""Backbones that give feature maps, and their pretrained weights."""
