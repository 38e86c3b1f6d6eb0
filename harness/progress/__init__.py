"""What a person sees of a run: on its terminal, in its log, and from another shell.

display.py  the live table of cells and steps, or a line a minute where there is no terminal
pace.py     how long the rest will take, as the steps so far have it
live.py     progress.json: the same, for `esft-bench status`
"""
