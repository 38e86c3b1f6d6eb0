"""What a reader has to know: how the tables are meant, and what each section stands on."""

from esft_bench.reports.formatting import SHORT, Sentence

BESIDE = (
    "Ours minus the published value. Significant: the published value lies outside our 95% interval (over items and, "
    "where there are several, training runs; Table 2 over training runs); where the paper gives an interval of its "
    "own, beyond both together. Each line stands by itself: nothing is corrected for their number. Averages are means "
    "of the columns."
)
ADVICE = (
    "From this run's numbers alone. Methods are equal here where the test of Table 1 cannot tell them apart; general "
    "ability is that of the cells trained on the task in question, paired with the base model's. What was not "
    "compared, other backbones and other data among it, may turn out otherwise."
)
JUDGE = "How far the judge can be trusted"
CHANGES = (
    "The same items were asked in both runs, so differences are paired item by item; with one training run a cell, "
    "significant means significant between these trained models, not between what was changed in general."
)


def how_to_read(second: str) -> list[Sentence]:
    """How the tables are meant; `second` says how the highest of the others is marked."""
    return [
        Sentence(
            "the highest of its column, or not distinguishable from it (paired test on the same items, p > 0.05 after "
            "Holm's correction over all pairs of rows in the column). In a table of differences: the difference is "
            "significant (Holm's correction over the table).",
            "Bold",
        ),
        Sentence("the highest of the others.", second),
        Sentence(
            "the true difference between two rows that this column's test finds with 80% probability, given how much "
            "the scores seen here vary (median over pairs of rows, Holm's first step).",
            "Minimum detectable effect",
        ),
        Sentence(
            "Brackets are 95% intervals of the paired difference: a bootstrap over items where there is one training "
            "run; where there are several, items and runs both count as drawn by chance. With one training run the "
            "intervals and the bold know nothing of how much a method varies from one training run to the next."
        ),
        Sentence(
            "± in Table 2 is half the width of the 95% t-interval over training runs: tasks and seeds differ between "
            "them, items do not."
        ),
        Sentence(
            "An interval stands for itself alone: one that leaves out 0 may belong to a difference that is not "
            "significant once all comparisons of a table are counted."
        ),
        Sentence(
            f"{SHORT}: fewer than 95% of the items could be scored. The share is given; the value is neither bold nor "
            "compared. An item that could not be scored counts as missing, never as 0."
        ),
        Sentence("–: no value; the letter says why."),
    ]
