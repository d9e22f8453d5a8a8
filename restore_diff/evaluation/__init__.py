"""A restorer scored over a test set."""
