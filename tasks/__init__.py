"""Tasks: one folder a task, holding its data, its prompt, its metric and its rubric."""
