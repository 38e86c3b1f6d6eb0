"""What a reader has to know: how the tables are meant, and what each section stands on."""

from esft_bench.reports.formatting import SAME, SHORT, Sentence, points

BESIDE = (
    "Ours minus the published value, with our 95% interval (over items and, where there are several, training runs; "
    "Table 2 over training runs). Significant: beyond our uncertainty, and the paper's where it gives one, among all "
    "comparisons of this report. With one training run the interval knows nothing of how a method varies from one "
    "training to the next: the difference is that of this training. Averages are means of the columns."
)
ADVICE = (
    "From this run's numbers alone. Where rows have curves, what they forget at equal gain decides; elsewhere the test "
    "of Table 1. Of what cannot be told apart, and was measured within the margin that counts as the same, the "
    "cheapest is taken (the lowest product of time, memory and storage), unless another keeps more of the general "
    "ability, beyond chance and by more points than it scores less. General ability is that of the cells trained on "
    "the task in question, paired with the base model's. What was not compared, other backbones and other data among "
    "it, may turn out otherwise."
)
JUDGE = "How far the judge can be trusted"
CHANGES = (
    "The same items were asked in both runs, so differences are paired item by item; what is significant "
    "is judged "
    "among "
    "all differences of these tables. With one training run a cell it is between these trained "
    "models, not between what "
    "was changed in general."
)


def how_to_read(second: str, margin: float) -> list[Sentence]:
    """How the tables are meant; `second` says how the highest of the others is marked, `margin` what is the same."""
    return [
        Sentence(
            "the highest of its column, or not distinguishable from it. In a table of differences: the "
            "difference is "
            "significant. All comparisons of this report are judged together, those of all tables, the advice and the "
            "comparison with a paper: at most 5% of what is called significant is expected to be chance "
            "(paired tests on "
            "the same items, Benjamini and Yekutieli's correction).",
            "Bold",
        ),
        Sentence("the highest of the others.", second),
        Sentence(
            "the true difference between two rows that this column's test finds with 80% probability, given how much "
            "the scores seen here vary (median over pairs of rows) and how many comparisons this report makes.",
            "Minimum detectable effect",
        ),
        Sentence(
            "Brackets are 95% intervals of the paired difference: a bootstrap over items where there is one training "
            "run; where there are several, items and runs both count as drawn by chance, and few runs make them wide. "
            "With one training run intervals and marks are about these trainings: they know nothing of how "
            "much a method "
            "varies from one training run to the next."
        ),
        Sentence(
            f"the same within {points(margin)}: a larger difference can be ruled out (two one-sided tests, judged "
            "together like the differences). What is neither significant nor the same is open.",
            SAME,
        ),
        Sentence(
            "± in Table 2 is half the width of the 95% t-interval over training runs: tasks and seeds differ between "
            "them, items do not."
        ),
        Sentence(
            "An interval stands for itself alone: one that leaves out 0 may belong to a difference that is not "
            "significant once all comparisons of the report are counted."
        ),
        Sentence(
            f"{SHORT}: fewer than 95% of the items could be scored. The share is given; the value is neither bold nor "
            "compared. An item that could not be scored counts as missing, never as 0."
        ),
        Sentence("–: no value; the letter says why."),
    ]
