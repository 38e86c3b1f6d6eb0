"""report.md and comparison.md: the content as text that a code host also renders."""
