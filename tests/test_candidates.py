"""The alignments that are measured beside those of the method."""

import sys

import numpy as np
import pytest
from conftest import ROOT
from test_alignment import wide

sys.path.insert(0, str(ROOT / "benchmarks"))
import candidates

from actalign.alignment import balanced, segment


def test_balanced_paced_is_balanced_with_the_prior_of_paced():
    for matrix in wide(100, seed=39):
        T, M = matrix.shape
        prior = -0.5 * ((np.arange(M) + 0.5) - M * (np.arange(T)[:, None] + 0.5) / T) ** 2
        balanced_paced = candidates.ALIGNMENTS["balanced paced"]
        assert balanced_paced(matrix)[0] == pytest.approx(balanced(matrix + prior)[0], abs=1e-12)
        stronger = list(candidates.VARIANTS.values())[1]
        assert stronger(matrix)[0] == pytest.approx(segment(matrix + 4 * prior)[0], abs=1e-12)


def test_equal_parts_are_what_their_name_says():
    score, path = candidates.equal(np.arange(12.0).reshape(6, 2))
    assert path[:, 1].tolist() == [0, 0, 0, 1, 1, 1]
    assert score == np.mean([0, 2, 4, 7, 9, 11])
