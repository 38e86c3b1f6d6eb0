"""Records: what is read off finished artifacts (scores, costs, curves, routing), for the report and nothing else."""
