"""The tests; packages, so that helpers can be imported by child processes."""
