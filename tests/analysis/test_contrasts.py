"""Which contrasts of heads speak of causes, and which do not."""

import numpy as np
import pandas as pd
import pytest

from rankbound.analysis.contrasts import rank_contrasts

AXES = ["model.head", "hidden_size"]
READ, TAUGHT = 0.2, 0.1
HEADS = {
    "Linear": 0.0,
    "Factorized(rank=8)": READ + TAUGHT,
    "ForwardFactorized(rank=8)": READ,
    "BackwardFactorized(rank=8, refresh=20)": TAUGHT,
    "TaughtFactorized(rank=8)": TAUGHT,
    "MixtureOfSoftmaxes(components=4)": -0.1,
}


def study(heads=HEADS, number=4, widths=(16,)) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for width in widths:
        for seed in range(number):
            luck = rng.normal()
            for head, effect in heads.items():
                loss = 4 + luck + effect * (width > 8) + 0.005 * rng.normal()
                rows.append((head, width, seed, "finished", loss))
    frame = pd.DataFrame(rows, columns=[*AXES, "seed", "state", "valid/loss"])
    return frame.assign(tokens=1000, body_parameters=50, embedding_parameters=20)


def by_pair(found):
    return {
        (c.difference.variant.partition("(")[0], c.difference.reference.partition("(")[0]): c for c in found
    }


def test_every_change_is_found_with_its_effect():
    found = by_pair(rank_contrasts(study(), AXES))
    expected = {
        ("ForwardFactorized", "Linear"): READ,
        ("BackwardFactorized", "Linear"): TAUGHT,
        ("TaughtFactorized", "Linear"): TAUGHT,
        ("Factorized", "Linear"): READ + TAUGHT,
        ("Factorized", "ForwardFactorized"): TAUGHT,
        ("Factorized", "TaughtFactorized"): READ,
    }
    means = {pair: c.difference.estimate.mean for pair, c in found.items()}
    assert means == pytest.approx(expected, abs=0.02)
    assert {c.kind for c in found.values()} == {"cause"}
    sentence = found["ForwardFactorized", "Linear"].sentence
    assert sentence.startswith("Reading at rank 8, taught in full, all else equal, changes valid/loss")


def test_a_rank_that_restricts_nothing_is_a_control():
    kinds = {c.difference.cell["hidden_size"]: c.kind for c in rank_contrasts(study(widths=(8, 16)), AXES)}
    assert kinds == {8: "control", 16: "cause"}


@pytest.mark.parametrize("column", ["tokens", "body_parameters"])
def test_what_differs_besides_the_rank_takes_the_cause_away(column):
    frame = study()
    frame.loc[frame["model.head"].str.startswith("ForwardFactorized"), column] += 1
    found = by_pair(rank_contrasts(frame, AXES))
    assert found["ForwardFactorized", "Linear"].differs == (column,)
    assert "Not an effect of rank alone" in found["ForwardFactorized", "Linear"].sentence
    assert found["Factorized", "ForwardFactorized"].kind == "unequal"
    assert found["BackwardFactorized", "Linear"].kind == "cause"


def test_rates_of_their_own_are_said():
    frame = study()
    frame["model.optimizer.learning_rate"] = np.where(frame["model.head"] == "Linear", 0.01, 0.02)
    found = by_pair(rank_contrasts(frame, AXES))
    assert "each head at a learning rate of its own" in found["Factorized", "Linear"].sentence
    assert "of its own" not in found["Factorized", "TaughtFactorized"].sentence


def test_only_the_same_rank_and_the_same_other_arguments_are_contrasted():
    heads = dict.fromkeys(
        ("Linear", "Linear(bias=True)", "Factorized(rank=8)", "ForwardFactorized(rank=4)"), 0.0
    )
    pairs = {(c.difference.variant, c.difference.reference) for c in rank_contrasts(study(heads), AXES)}
    assert pairs == {("Factorized(rank=8)", "Linear"), ("ForwardFactorized(rank=4)", "Linear")}


def test_one_seed_claims_nothing():
    found = rank_contrasts(study(number=1), AXES)
    assert all(c.difference.reading == "no interval" for c in found)
    assert all("is not tested for an effect on valid/loss" in c.sentence for c in found)
    assert all("changes" not in c.sentence for c in found)
