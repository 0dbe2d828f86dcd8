"""The one exception for what a user can mend."""


class InputError(ValueError):
    """Wrong arguments or data.

    The message is one sentence a user can act on: which file or flag, what is wrong with it, what
    to do. Commands print it and exit with code 2, without a traceback.
    """


class ReaderKilled(Exception):  # noqa: N818 - named for what happened
    """A process that reads images was killed; the run can go on from its checkpoint."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__(
            "a process that reads images was killed, perhaps for its memory: give the same command "
            "again to go on; fewer --workers need less"
        )
