"""What the numbers say, in plain words. Nothing here knows which method ought to win."""
