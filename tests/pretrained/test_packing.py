"""Rows hold every window once, read what windows share once, and score what each asks for."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.pretrained.small import text_model

from rankbound.model.tree import TokenTree
from rankbound.pretrained import packing
from rankbound.pretrained.packing import ROW_TOKENS, Window, batches, grouped, packed, targets, together
from rankbound.pretrained.scoring import Piece, score

#: Of two tokens, so that much is shared.
texts = st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=12), min_size=1, max_size=30)


def whole(pieces):
    return [Window(i, 0, 0, len(ids) - 1) for i, ids in enumerate(pieces)]


@given(texts)
def test_rows_lose_nothing_and_read_no_token_twice(pieces):
    rows = packed(whole(pieces), pieces, most=2**20)
    assert sorted(w for row in rows for w in row.windows) == whole(pieces)
    for row in rows:
        beginnings = {tuple(pieces[w.piece][:n]) for w in row.windows for n in range(1, w.length + 1)}
        assert row.length == len(beginnings)


@given(texts, st.integers(1, 40))
def test_rows_keep_to_their_size(pieces, most):
    for row in packed(whole(pieces), pieces, most):
        assert row.length <= most or len(row.windows) == 1


@given(texts, st.integers(1, 200), st.data())
def test_a_batch_scores_what_its_windows_ask_for(pieces, batch_tokens, data):
    windows = [w._replace(fresh=data.draw(st.integers(0, w.end - 1))) for w in whole(pieces)]
    seen = []
    for batch in batches(windows, pieces, batch_tokens):
        read, wanted = together(batch), targets(batch)
        tokens = read.tokens if isinstance(read, TokenTree) else read
        visible = read.visible() if isinstance(read, TokenTree) else None
        assert len({*zip(wanted.state.tolist(), wanted.token.tolist(), strict=True)}) == len(wanted.state)
        start = 0
        for window in (w for row in batch for w in row.windows):
            ids, count = pieces[window.piece], window.end - window.fresh
            pairs = wanted.of_windows[start : start + count]
            start += count
            assert wanted.token[pairs].tolist() == ids[window.fresh + 1 :]
            for i, state in zip(range(window.fresh, window.end), wanted.state[pairs].tolist(), strict=True):
                row, node = divmod(state, tokens.shape[1])
                before = tokens[row, : node + 1] if visible is None else tokens[row, visible[row, node]]
                assert before.tolist() == ids[: i + 1]
            seen.append(window)
        assert start == len(wanted.of_windows)
    assert sorted(seen) == sorted(windows)


def test_batches_keep_to_their_size_and_lose_nothing():
    rng = np.random.default_rng(1)
    pieces = [rng.integers(0, 3, n).tolist() for n in rng.integers(2, 30, 60)]
    rows = packed(whole(pieces), pieces, 60)
    found = list(grouped(rows, 60))
    assert sorted(id(row) for batch in found for row in batch) == sorted(map(id, rows))
    assert all(len(b) == 1 or len(b) * b[0].length <= 60 for b in found)
    assert all(batch[0].length == max(row.length for row in batch) for batch in found)


def test_rows_are_made_of_a_portion_at_a_time(monkeypatch):
    monkeypatch.setattr(packing, "PORTION", 20)
    pieces, asked = [[1] * 6 for _ in range(30)], []
    windows = (asked.append(w) or w for w in whole(pieces))
    found = batches(windows, pieces, 100)
    first = next(found)
    assert len(asked) == 4
    assert sorted(w for batch in [first, *found] for row in batch for w in row.windows) == whole(pieces)


def test_long_texts_that_share_a_word_stay_apart_and_answers_to_one_question_do_not():
    rng = np.random.default_rng(1)
    word, question = [5], rng.integers(0, 50, 300).tolist()
    long = [word + rng.integers(0, 50, ROW_TOKENS).tolist() for _ in range(4)]
    answers = [[*question, i, *rng.integers(0, 50, 40).tolist()] for i in range(4)]
    assert len(packed(whole(long), long, 4096)) == 4
    [row] = packed(whole(answers), answers, 4096)
    assert row.length == 300 + 4 * 40


def test_windows_of_one_text_are_texts_of_their_own():
    ids = [list(range(100))]
    windows = [Window(0, 0, 0, 64), Window(0, 32, 64, 96)]
    rows = packed(windows, ids, 4096)
    assert sorted(row.positions[-1] for row in rows) == [63, 63]


def test_what_is_shared_is_read_once(monkeypatch):
    own = text_model()
    pieces = [Piece([1, 2, 3, 4, 5, last, 6]) for last in range(10, 30)]
    read = []
    embedding = own.model.body.embedding
    embedding.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].numel()))
    together = [s.total for s in score(own.model, pieces, own.context)]
    assert sum(read) == 5 + 20
    alone = [score(own.model, [piece], own.context)[0].total for piece in pieces]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_nothing_shared_is_plain_text():
    rows = packed(whole([[1, 2], [2, 3]]), [[1, 2], [2, 3]], 4096)
    read = together(list(rows))
    assert isinstance(read, torch.Tensor)
