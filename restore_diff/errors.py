"""The base of errors that the user can fix. Apart from all areas, so that commands catch it without importing them."""


class UserError(ValueError):
    """Wrong arguments, config, data or files; commands print its text in one line, without a traceback."""
