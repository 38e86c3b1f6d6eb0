"""The error a method raises when a model, a score file or an adapter is not what it expects."""


class MethodError(ValueError):
    """One sentence for the user: what is wrong, where, and what to do."""
