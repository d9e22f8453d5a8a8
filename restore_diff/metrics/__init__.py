"""Numbers on images in [0, 1]."""
