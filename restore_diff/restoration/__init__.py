"""Restoration of images and folders with a trained network."""
