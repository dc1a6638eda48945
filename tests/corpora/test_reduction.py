from collections import Counter

import numpy as np
import pytest
from tests.corpora.test_control import documents, filtering

from rankbound.corpora.control import Control
from rankbound.corpora.reduction import Reduction
from rankbound.corpora.tokenizer import token_lengths, train_tokenizer

TEXTS = list(documents(20, 5))


def reductions():
    keep = filtering()
    constrained = train_tokenizer(Reduction(keep).training_texts(TEXTS), 270)
    return Reduction(keep), Reduction(keep, Control(keep, constrained, seed=1)), constrained


@pytest.mark.parametrize("controlled", [False, True])
def test_counts_are_those_of_what_the_ids_decode_to(controlled):
    reduction = reductions()[controlled]
    tokenizer = train_tokenizer(reduction.training_texts(TEXTS), 270)
    counts: Counter[str] = Counter()
    ids = np.concatenate(list(reduction.encode(tokenizer, TEXTS, counts)))
    spans = [tokenizer.decode(s[:-1].tolist()) for s in np.split(ids, np.flatnonzero(ids == 0) + 1)[:-1]]
    assert counts["documents"] == len(spans)
    assert counts["bytes"] == sum(len(s.encode()) for s in spans) == token_lengths(tokenizer)[ids].sum()
    assert counts["words"] == sum(len(s.split()) for s in spans)
    kept = [span for text in TEXTS for span in filtering()(text)[0]]
    assert counts["list_spans"] == len(kept)
    assert counts["list_words"] == sum(len(text.split()) for text in TEXTS)
    assert (spans == kept) != controlled


def test_a_saved_reduction_does_the_same_elsewhere(tmp_path):
    assert Reduction.load(tmp_path) is None
    for reduction in reductions()[:2]:
        reduction.save(tmp_path)
        again = Reduction.load(tmp_path)
        tokenizer = train_tokenizer(reduction.training_texts(TEXTS), 270)
        first, second = (
            np.concatenate(list(each.encode(tokenizer, TEXTS, Counter()))) for each in (reduction, again)
        )
        assert first.tolist() == second.tolist()


def test_control_and_constrained_are_of_equal_length():
    plain, control, constrained = reductions()
    own = train_tokenizer(control.training_texts(TEXTS), 270)
    lengths = [
        sum(map(len, plain.encode(constrained, TEXTS, Counter()))),
        sum(map(len, control.encode(own, TEXTS, Counter()))),
    ]
    assert lengths[0] == lengths[1] > 1000
