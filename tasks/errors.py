"""The errors a task raises when its input is not what it expects."""

from esft_bench.spec.errors import UserError


class TaskError(UserError):
    """One sentence for the user: which task, which file and line, what is wrong and what to do."""


class MissingDataError(TaskError):
    """A data set that is not there at all: no such file, no hub, no revision. A run may leave such a task out."""
