"""The errors a user can cause and mend."""


class UserError(ValueError):
    """One sentence for the user: what is wrong, where (file, line, field), and what to do. Exit code 2."""


class DivergedError(UserError):
    """A training whose loss or gradient is no finite number."""


class NoSpaceError(UserError):
    """No disk space is left: it would meet every other cell too, so the run ends."""
