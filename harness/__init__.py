"""The harness: what to compare (suite, plan), walking it (run), and one file for each kind of step."""
