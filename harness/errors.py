"""The error a user can cause and mend."""

from methods.errors import MethodError
from tasks.errors import TaskError


class UserError(ValueError):
    """One sentence for the user: what is wrong, where (file, line, field), and what to do. Exit code 2."""


USER_ERRORS = (UserError, MethodError, TaskError)
"""Everything the command line prints as one sentence, without a traceback."""
