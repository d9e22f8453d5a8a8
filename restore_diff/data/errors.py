"""The error of data sets. Imports nothing."""


class DataError(ValueError):
    """A data set that cannot be used as it lies on the disk. The message says what to do."""
