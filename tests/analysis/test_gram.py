"""Estimators against what they estimate, exactly and on average."""

import numpy as np
import pytest

from rankbound.analysis.gram import crossed, empirical, unbiased
from rankbound.analysis.ngrams import count

V, CONTEXT_COUNTS = 6, np.array([1, 2, 3, 5, 9])


def language(rng):
    return rng.dirichlet(np.full(V, 0.5), len(CONTEXT_COUNTS))


def sample(distributions, rng, documents=None):
    context = np.repeat(np.arange(len(CONTEXT_COUNTS)), CONTEXT_COUNTS)
    token = np.array([rng.choice(V, p=distributions[c]) for c in context])
    return count(context, token, np.zeros_like(context) if documents is None else documents, V)


def expected(distributions, weighting, least=2):
    weight = CONTEXT_COUNTS if weighting == "count" else np.ones(len(CONTEXT_COUNTS))
    return distributions.T @ (distributions * (weight * (least <= CONTEXT_COUNTS))[:, None])


@pytest.mark.parametrize("weighting", ["count", "context"])
def test_pairs_are_unbiased_and_counts_are_not(weighting):
    rng = np.random.default_rng(0)
    distributions = language(rng)
    built = {"empirical": [], "unbiased": [], "crossed": []}
    for _ in range(1500):
        seen = sample(distributions, rng)
        built["empirical"].append(empirical(seen, weighting).dense())
        built["unbiased"].append(unbiased(seen, weighting).dense())
        built["crossed"].append(crossed(seen, seen.split(rng), weighting)[1].dense())
    for name in ("unbiased", "crossed"):
        error = np.std(built[name], axis=0) / np.sqrt(1500)
        off = np.mean(built[name], axis=0) - expected(distributions, weighting)
        assert (np.abs(off) < 4.5 * error + 1e-12).all(), name
    too_much = np.trace(np.mean(built["empirical"], axis=0)) - np.trace(
        expected(distributions, weighting, 1)
    )
    noise = (1 - (distributions**2).sum(1)) * (1 if weighting == "count" else 1 / CONTEXT_COUNTS)
    assert too_much == pytest.approx(noise.sum(), rel=0.05)


@pytest.mark.parametrize("weighting", ["count", "context"])
def test_formulas_one_context_at_a_time(weighting):
    rng = np.random.default_rng(1)
    seen = sample(language(rng), rng)
    multiplicity = rng.integers(0, 4, len(seen.entry)).astype(float)
    total = np.zeros((V, V))
    tokens, contexts = seen.counts.indices[seen.entry], seen.context[seen.entry]
    for c in range(len(CONTEXT_COUNTS)):
        own = np.flatnonzero(contexts == c)
        pairs, mass = np.zeros((V, V)), 0.0
        for i in own:
            for j in own:
                if i != j:
                    both = multiplicity[i] * multiplicity[j]
                    pairs[tokens[i], tokens[j]] += both
                    mass += both
        if mass:
            total += pairs / mass * (multiplicity[own].sum() if weighting == "count" else 1)
    assert np.allclose(unbiased(seen, weighting, multiplicity).dense(), total)
    once = unbiased(seen, weighting, np.ones(len(seen.entry)))
    assert np.allclose(once.dense(), unbiased(seen, weighting).dense())


def test_products_and_trace_need_no_dense_matrix():
    rng = np.random.default_rng(2)
    seen = sample(language(rng), rng)
    columns = rng.standard_normal((V, 3))
    for gram in (empirical(seen, "count"), *crossed(seen, seen.split(rng), "count")):
        dense = gram.dense()
        assert np.allclose(dense, dense.T)
        assert np.allclose(gram @ columns, dense @ columns)
        assert gram.trace == pytest.approx(np.trace(dense))


def test_a_resampled_document_makes_no_pairs_with_its_copy():
    context, token = np.zeros(3, dtype=int), np.array([1, 2, 3])
    seen = count(context, token, np.array([0, 1, 2]), V)
    twice_the_first = unbiased(seen, "context", np.array([2.0, 1.0, 0.0])).dense()
    assert twice_the_first[1, 1] == pytest.approx(0, abs=1e-12)
    assert twice_the_first[1, 2] == pytest.approx(0.5)
