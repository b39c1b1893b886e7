"""Best-of-n for every n at once, from the same answers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from labkit.configs import Count
from labkit.errors import LabError


def best_of_n_kl(n: Count) -> float:
    """log n - (n - 1) / n nats: how far best-of-n is from the model that draws the answers (Stiennon et al. 2020,
    https://arxiv.org/abs/2009.01325, appendix G.3). Where some answers are drawn twice it is an upper bound (Beirami et
    al. 2024, https://arxiv.org/abs/2401.01879).
    """
    return math.log(n) - (n - 1) / n


def expected_of_best(ranked_by: NDArray, values: NDArray, n: Count) -> NDArray:
    """What the answer that `ranked_by` likes best of n is worth, in expectation: [P].

    ranked_by, values [P, N]: what a judge gives each of N answers to P prompts, and what each is worth. The mean over
    all subsets of n of the N answers, which is unbiased: the answer that stands i-th from the lowest is the best of
    C(i - 1, n - 1) of the C(N, n) subsets (Nakano et al. 2021, https://arxiv.org/abs/2112.09332, appendix I). Of
    answers that the judge likes alike, which are mostly the same, the later one counts as better. Raises LabError for
    an n that is not from 1 to N.
    """
    count = values.shape[1]
    if not 1 <= n <= count:
        raise LabError(f"The best of {n} cannot be told from {count} answers.")
    subsets = math.comb(count, n)
    weights = np.array([math.comb(place, n - 1) / subsets for place in range(count)])
    order = ranked_by.argsort(axis=1, kind="stable")
    found: NDArray = np.take_along_axis(values, order, 1) @ weights
    return found
