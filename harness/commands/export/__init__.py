"""`esft-bench export`: a trained cell's weights as a folder to publish or serve, with a model card.

choice.py   which cell of a run: the one that is named, or the row the report advises
weights.py  its adapter in its community's form, the merged checkpoint, or both
card.py     README.md: how it was trained, what it scored, what it forgot
"""
