"""Steps: what happens to a cell, one file a kind (profile, train, answer, judge), all after one contract (step)."""
