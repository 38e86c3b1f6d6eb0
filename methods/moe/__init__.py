"""One view of any mixture-of-experts model in transformers, and what expert-selective training builds on it."""
