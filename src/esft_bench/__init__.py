"""esft-bench: which way of fine-tuning a mixture-of-experts model gains most, costs least and forgets least.

The parts are the folders at the top of the repository (harness, methods, reports, spec, tasks), linked here so that an
editable install, mypy and import-linter walk the tree that a wheel holds.
"""
