"""Optimisation: the loop, averaged weights, checkpoints, the run folder."""
