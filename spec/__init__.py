"""Spec: what is asked for (suite, cell) and what is written down (record, results). All else stands on it."""
