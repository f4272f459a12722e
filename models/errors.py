"""The error that a user can mend: every command shows it as one line, without a traceback."""


class UserError(ValueError):
    """Something that was typed, configured or given as a file is wrong; the message says what to do.

    Raised where a user's input is judged. Any other exception is a fault of this project and keeps its traceback.
    """
