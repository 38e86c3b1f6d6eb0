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

Neither knows anything of how much a method varies from one training run to the next: what differs are two trainings,
and every sentence that rests on a single run says so.

**Several runs.** Runs and items are crossed: D[r, i] = d + a_r + b_i + e_ri. With A, C and E the variances of the run
means, the item means and the residuals, divided by R, N and R·N:

    (4)  SE² = max(C, E) + max(A − E, 0)          items, and runs beyond what items explain

A few runs hardly tell A: by chance it comes out small, and an interval that believes it is too narrow (Satterthwaite's
degrees of freedom do: with 3 runs they reject a true null up to 4 times as often as they say at a level of 0.5%, with
2 runs 10 times). So the standard error is known up to A's own distribution (a generalised confidence interval,
Weerahandi 1993; Hannig, Iyer & Patterson 2006), A having f degrees of freedom, R − 1 for one benchmark,
Satterthwaite's for several:

    (5)  SE²(u) = max(C, E) + max(A·f/χ²_f(u) − E, 0),   u uniform on (0, 1)
    (6)  p = 2·E_u[ P(t_{N−1} > |d| / SE(u)) ],   the interval is d ± the distance at which p is 5%

With A alone this is the t-interval over runs, with C alone that over items.

Everything that a report compares is one family: all pairs of rows on every column and average of Tables 1 and 2, Table
3 among them, general ability after each task, and each value beside a paper's. p-values are adjusted so that of the
differences called significant at most 5% are expected to be none, however they depend on each other (Benjamini &
Yekutieli 2001); where nothing differs at all, the chance of any false one is at most 5%:

    (7)  p̃_(j) = min_{l ≥ j} min(1, m Σ_{i ≤ m} 1/i · p_(l) / l), over the sorted p-values

The minimum detectable effect of a paired test, found with probability `power` where it truly exists, z_q being the
distance that the error exceeds with probability q, α the p-value below which one more difference would count:

    (8)  δ = z_{α/2} + z_{1−power}

Variances between the few runs of single columns are read together (Smyth 2004), s₀² and f₀ fitted to all pairs of a
role; f₀ is small where they are unlike. None is taken for smaller than what the pair itself shows:

    (9)  A → max(A, (f₀ s₀² + f A) / (f₀ + f)),   f → f₀ + f

Rows are *the same within a margin* M where a difference of M or more can be ruled out (two one-sided tests, Schuirmann
1987). If the difference were M, at least M points' worth of items would differ, so no smaller variance is believed:

    (10) p = P(error > M − |d|),   SE² ≥ M (100 − M) / N

These p-values are adjusted by (7) among themselves.

    error.py       the error of a mean, (5), (6)
    variance.py    variance components, (4)
    moderation.py  variances of many pairs read together, (9)
    resampling.py  bootstrap and exact tests, (2), (3)
    paired.py      one row against another, (1), (6), (10)
    family.py      all comparisons of a report, (7)
    detectable.py  minimum detectable effects, (8)
"""
