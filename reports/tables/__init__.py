"""The tables of a report, from the records and the items behind them: what each cell says, not yet how it looks.

table.py       a table and its cells
scores.py      Table 1 (task ability), Table 2 (general ability), and further ones that a suite asks for
ablation.py    Table 3
costs.py       what training and judging cost
retention.py   what is left of earlier tasks
paper.py       a paper's published values beside ours (published/*.yaml)
glance.py      all of it, one line a row
view.py        any of them as it is shown, the same for every form of the report
"""
