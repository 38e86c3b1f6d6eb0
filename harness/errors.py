"""The error a user can cause and mend."""

from methods.errors import MethodError
from tasks.errors import TaskError


class UserError(ValueError):
    """One sentence for the user: what is wrong, where (file, line, field), and what to do. Exit code 2."""


class NoSpaceError(UserError):
    """No disk space is left: it would meet every other cell too, so the run ends."""


USER_ERRORS = (UserError, MethodError, TaskError)
"""Everything the command line prints as one sentence, without a traceback."""
