"""How like its reference an answer is: what stands in for a judge where none is asked."""

from sacrebleu.metrics import CHRF


def likeness(answer: str, reference: str) -> float | None:
    """chrF (Popović 2015, as sacrebleu computes it), 0 to 1; None where the reference is empty."""
    if not reference.strip():
        return None
    return float(CHRF().sentence_score(answer.strip(), [reference.strip()]).score) / 100
