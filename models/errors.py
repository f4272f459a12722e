"""The error that a user can mend: every command shows it as one line, without a traceback."""


class UserError(ValueError):
    """Something that was typed, configured or given as a file is wrong; the message says what to do.

    Raised where a user's input is judged. Any other exception is a fault of this project and keeps its traceback.
    """


def check_bounds(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside of [low, high], NaN too; `name` is the option's, as a user types it.

    Raises:
        UserError: it is not inside.
    """
    if not low <= value <= high:
        raise UserError(f"{name} must be in [{low:.10g}, {high:.10g}], got {value!r}")
