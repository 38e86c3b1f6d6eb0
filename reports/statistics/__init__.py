"""The statistics of a comparison: is one row better than another, and how sure can one be?

Two methods answer the same items, so scores are compared item by item. Notation: D[r, i] is the difference of two
methods in training run r on item i, in points (0 to 100); NaN where either has no score. R training runs, N items. A
comparison may average over several benchmarks; it then has one such array for each.

The paired difference is the mean of the run means, averaged over K benchmarks:

    (1)  d = 1/K Σ_k 1/R_k Σ_r mean_i D_k[r, i]

**One run.** What varies is the choice of items. The interval is the percentile bootstrap: draw N of the N items with
replacement, within each benchmark, and take the 2.5% and 97.5% quantiles of (1) (Efron 1979). The test is exact: if the
methods were equal, each item's difference could as well have had the other sign.

    (2)  binary scores: p = P(|X − m/2| ≥ |b − m/2|),  X ~ Binomial(m, 1/2),  b of m discordant items for the first
         (McNemar's exact test)
    (3)  graded scores, averages: p = (1 + #{|Σ s_i w_i D_i| ≥ |Σ w_i D_i|}) / (1 + draws), s_i = ±1 at random

Neither knows anything of how much a method varies from one training run to the next.

**Several runs.** Runs and items are crossed: D[r, i] = d + a_r + b_i + e_ri. With A, C and E the variances of the run
means, the item means and the residuals, divided by R, N and R·N:

    (4)  SE² = max(C, E) + max(A − E, 0)          items, and runs beyond what items explain
    (5)  df  = SE⁴ / (A²/(R−1) + C²/(N−1))          (Satterthwaite 1946)
    (6)  interval d ± t(df)·SE,  p from t = d / SE

Many comparisons are corrected together (Holm 1979), so that the chance of any false rejection stays below α:

    (7)  p̃_(j) = max_{l ≤ j} min(1, (m − l + 1) p_(l)), over the sorted p-values

The minimum detectable effect of a paired test, found with probability `power` where it truly exists:

    (8)  δ = (t_{1−α/2m} + t_power)·SE

All pairs of k rows of a column share one variance between runs, because two or three runs of a pair say little about
it and corrected tests live in the tails of t:

    (9)  A − E in (4) is its mean over the pairs, with (R−1)(k−1) degrees of freedom in (5)

A bootstrap over three runs cannot reach beyond the three it saw and covers far less than it claims (a test shows
it); (6) pays for few runs with a wide t.

    variance.py    variance components, (4), (5), (9)
    resampling.py  bootstrap and exact tests, (2), (3)
    paired.py      one row against another, (1), (6), (7)
    ranking.py     which rows of a column are best, or can't be told from the best
    detectable.py  minimum detectable effects, (8)
"""
