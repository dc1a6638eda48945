"""Scores in batches and windows against one forward pass a token."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.pretrained.small import text_model

from rankbound.errors import InputError
from rankbound.pretrained import scoring
from rankbound.pretrained.scoring import Piece, score, sliding


def one_by_one(model, piece, context):
    """log p of each scored token given everything before it, by a forward pass of its own."""
    values, greedy = [], True
    for i in range(piece.scored_from, len(piece.ids)):
        before = torch.tensor([piece.ids[max(0, i - context) : i]])
        log_prob_V = model(before)[0, -1]
        values.append(float(log_prob_V[piece.ids[i]]))
        greedy = greedy and int(log_prob_V.argmax()) == piece.ids[i]
    return values, greedy


def random_pieces(size, count=12, seed=1):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 30, count)
    return [Piece(rng.integers(0, size, n).tolist(), int(rng.integers(1, n))) for n in lengths]


@pytest.mark.parametrize("mixture", [False, True])
def test_batches_score_as_one_forward_pass_a_token(mixture, monkeypatch):
    own = text_model(mixture)
    monkeypatch.setattr(scoring, "FEWEST_ROWS", 7)
    monkeypatch.setattr(scoring, "CPU_LOGITS", 1)  # so that the head's rows come in chunks
    pieces = random_pieces(own.model.head.vocab_size)
    with torch.no_grad():
        expected = [one_by_one(own.model, piece, own.context) for piece in pieces]
    for greedy in (False, True):
        found = score(own.model, pieces, own.context, batch_tokens=100, greedy=greedy)
        for (values, hit), result in zip(expected, found, strict=True):
            np.testing.assert_allclose(result.log_prob, values, rtol=1e-5, atol=2e-5)
            assert result.greedy == (hit if greedy else None)


def test_the_greedy_continuation_is_found_greedy():
    own = text_model()
    ids = [3, 5]
    with torch.no_grad():
        for _ in range(6):
            ids.append(int(own.model(torch.tensor([ids]))[0, -1].argmax()))
    wrong = [*ids[:-1], (ids[-1] + 1) % own.model.head.vocab_size]
    found = score(own.model, [Piece(ids, 2), Piece(wrong, 2)], own.context, greedy=True)
    assert [result.greedy for result in found] == [True, False]


def test_a_long_text_slides_and_stride_one_gives_every_token_its_full_context():
    own = text_model(context=8)
    pieces = [Piece(list(range(1, 40))), Piece(list(range(1, 30)), 27)]
    with torch.no_grad():
        expected = [one_by_one(own.model, piece, 8)[0] for piece in pieces]
    for values, result in zip(expected, score(own.model, pieces, 8, stride=1), strict=True):
        np.testing.assert_allclose(result.log_prob, values, rtol=1e-5, atol=2e-5)


@given(length=st.integers(1, 60), context=st.integers(1, 20), data=st.data())
def test_windows_score_every_token_once_with_enough_before_it(length, context, data):
    first = data.draw(st.integers(1, length))
    stride = data.draw(st.integers(1, context))
    scored = []
    for window in sliding(0, Piece(range(length), first), context, stride):
        assert 0 <= window.start <= window.fresh < window.end
        assert window.length <= context
        for i in range(window.fresh, window.end):
            scored.append(i + 1)
            assert i + 1 - window.start >= min(i + 1, context - stride + 1)
    assert scored == list(range(first, length))


def test_progress_ends_at_all_scored_tokens():
    own = text_model()
    seen = []
    pieces = random_pieces(50)
    score(own.model, pieces, own.context, batch_tokens=64, progress=lambda *now: seen.append(now))
    total = sum(len(p.ids) - p.scored_from for p in pieces)
    assert seen[-1] == (total, total)
    assert [d for d, _ in seen] == sorted({d for d, _ in seen})


def test_one_token_has_no_score():
    own = text_model()
    assert [len(s.log_prob) for s in score(own.model, [Piece([4]), Piece([])], own.context)] == [0, 0]


def test_wrong_input_is_named():
    own = text_model()
    with pytest.raises(InputError, match="scored_from"):
        Piece([1, 2], 0)
    with pytest.raises(InputError, match="token 9999 and the model has"):
        score(own.model, [Piece([1, 9999])], own.context)
    with pytest.raises(InputError, match="stride is 65"):
        score(own.model, [Piece([1, 2])], own.context, stride=65)
    with torch.no_grad():
        own.model.head.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="no numbers"):
        score(own.model, [Piece([1, 2])], own.context)
