"""Conditional image restoration by diffusion: rain, haze, snow and raindrops taken out of photographs."""

__version__ = "0.1.0"
