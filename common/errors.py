"""The one exception for what a user can mend."""


class InputError(ValueError):
    """Wrong arguments or data.

    The message is one sentence a user can act on: which file or flag, what is wrong with it, what
    to do. Commands print it and exit with code 2, without a traceback.
    """
