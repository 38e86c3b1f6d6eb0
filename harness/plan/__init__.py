"""The plan: a suite becomes cells, cells become paths through a graph of steps; how far they are, what they cost."""
