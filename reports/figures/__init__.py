"""Every figure of both papers that a run has the data for, as SVG with its data as CSV, in the run's folder `figures/`.

ESFT's Figures 2 to 7 and DAS's Figures 1, 3, 4 and 5 keep their numbers in their names; the trade of gain against
forgetting and memory, and the learning curves, are in neither paper. Figures draw numbers that are worked out
elsewhere: in the tables, or by `methods/moe/routing.py` when a run writes its `routing.json`. matplotlib is imported
when something is drawn.
"""
