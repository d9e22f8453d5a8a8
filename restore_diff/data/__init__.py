"""Pixels in: image files, pairs, crops, the order in which they come."""
