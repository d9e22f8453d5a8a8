"""Checks of a machine and of data sets. No check changes a file."""
