"""The error a method raises when a model, a score file or an adapter is not what it expects."""

from esft_bench.spec.errors import UserError


class MethodError(UserError):
    """One sentence for the user: what is wrong, where, and what to do."""
