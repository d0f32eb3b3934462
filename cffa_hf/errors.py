"""The one exception for mistakes in what a user gave: files, rows, settings."""


class InputError(ValueError):
    """A mistake in the input that the user can mend.

    The message is one whole sentence that names the file, the row or the field, what is wrong with it and the remedy.
    The scripts print it without a traceback and exit with status 2.
    """
