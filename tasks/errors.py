"""The error a task raises when its input is not what it expects."""


class TaskError(ValueError):
    """One sentence for the user: which task, which file and line, what is wrong and what to do."""
