import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbound import InputError
from rankbound.corpora import split as splitting
from rankbound.corpora.split import ENTRY, SPLITS, choose_split, copies, text_hash


def index(texts, seed=0, parts=3):
    """The entries of some texts, in parts as they would be on disk."""
    entries = [(text_hash(text.encode(), seed), len(text.encode())) for text in texts]
    return np.array_split(np.array(entries, dtype=ENTRY), parts)


def assigned(texts, share=0.1, seed=0, test_share=0.0, deduplicate=False):
    """Texts of each split."""
    entries = index(texts, seed)
    left_out = copies(entries) if deduplicate else np.zeros(len(texts), dtype=bool)
    split = choose_split(entries, left_out, share, test_share)
    kept = [text for text, out in zip(texts, left_out, strict=True) if not out]
    if split.valid_to is None:
        return [[split.cut(text)[name] for text in kept] for name in split.names]
    numbers = split.numbers(np.concatenate(entries)["hash"][~left_out])
    return [
        [text for text, number in zip(kept, numbers, strict=True) if SPLITS[number] == name]
        for name in split.names
    ]


documents = st.lists(st.text(max_size=30), min_size=2, max_size=40)


@given(documents, st.floats(0.01, 0.99), st.integers(0, 1000), st.randoms())
def test_any_documents_fall_into_two_full_disjoint_splits_in_any_order(texts, share, seed, rng):
    if len(set(texts)) < 2:
        return
    train, valid = assigned(texts, share, seed)
    assert train
    assert valid
    assert sorted(train + valid) == sorted(texts)
    assert not set(train) & set(valid)
    rng.shuffle(texts)
    shuffled = assigned(texts, share, seed)
    assert set(shuffled[0]) == set(train)
    assert set(shuffled[1]) == set(valid)


@given(documents, st.floats(0.01, 0.6), st.floats(0.01, 0.39), st.randoms())
def test_a_test_split_is_full_and_disjoint_too(texts, share, test_share, rng):
    if len(set(texts)) < 3:
        return
    train, valid, test = assigned(texts, share, test_share=test_share)
    assert sorted(train + valid + test) == sorted(texts)
    assert min(map(len, (train, valid, test))) > 0
    assert len(set(train)) + len(set(valid)) + len(set(test)) == len(set(texts))


@settings(max_examples=50)
@given(documents, st.floats(0.01, 0.9), st.floats(0.0, 0.09), st.integers(1, 9))
def test_memory_decides_nothing(texts, share, test_share, at_once):
    if len(set(texts)) < 3:
        return
    whole = assigned(texts, share, test_share=test_share), copies(index(texts)).tolist()
    before, splitting._AT_ONCE = splitting._AT_ONCE, at_once
    try:
        assert (assigned(texts, share, test_share=test_share), copies(index(texts)).tolist()) == whole
    finally:
        splitting._AT_ONCE = before


@given(documents)
def test_copies_are_all_but_the_first_of_the_same_text(texts):
    expected = [text in texts[:i] for i, text in enumerate(texts)]
    assert copies(index(texts)).tolist() == expected


def many(count):
    return [f"{i} " * (50 + i % 7) for i in range(count)]


def test_the_shares_of_bytes_are_met_and_the_seed_chooses_the_documents():
    train, valid, test = assigned(many(400), 0.05, test_share=0.1)
    total = sum(map(len, train + valid + test))
    assert sum(map(len, valid)) / total == pytest.approx(0.05, abs=0.003)
    assert sum(map(len, test)) / total == pytest.approx(0.1, abs=0.003)
    assert set(assigned(many(400), 0.05, seed=1)[1]) != set(valid)


def test_the_share_is_the_nearest_that_whole_documents_can_meet():
    """Held against trying every border of the documents in the order of their hashes."""
    texts = many(60)
    train, valid = assigned(texts, 0.2)
    ordered = sorted(texts, key=lambda text: text_hash(text.encode(), 0))
    sizes = np.cumsum([len(text) for text in ordered])
    nearest = np.abs(sizes[:-1] / sizes[-1] - 0.2).argmin() + 1
    assert sorted(valid) == sorted(ordered[:nearest])
    assert sorted(train) == sorted(ordered[nearest:])


def test_a_test_split_takes_nothing_from_valid():
    _, valid = assigned(many(400), 0.05)
    train, same, test = assigned(many(400), 0.05, test_share=0.2)
    assert same == valid
    assert train
    assert test


def test_a_corpus_that_grows_moves_only_documents_next_to_a_border():
    small = assigned(many(1000), 0.1, test_share=0.1)
    large = assigned(many(1300), 0.1, test_share=0.1)
    where = {text: number for number, texts in enumerate(large) for text in texts}
    moved = sum(where[text] != number for number, texts in enumerate(small) for text in texts)
    assert moved < 30  # of 1,000; two random splits with these shares would move some 340


@given(st.text(min_size=3, max_size=300), st.floats(0.01, 0.6), st.sampled_from([0.0, 0.01, 0.3]))
def test_a_single_text_is_cut_into_full_pieces(text, share, test_share):
    pieces = assigned([text, text], share, test_share=test_share, deduplicate=True)
    assert all(len(piece) == 1 and piece[0] for piece in pieces)
    assert "".join(piece[0] for piece in pieces) == text


def test_a_single_text_is_cut_after_the_nearest_line_break_else_a_space():
    line = "a line of twenty-six chars"
    (train,), (valid,) = assigned(["\n".join([line] * 100)])
    assert train == (line + "\n") * 90
    assert valid.startswith(line)
    (train,), _ = assigned([" ".join([line] * 100)])
    assert train.endswith(" ")
    (train,), _ = assigned(["title\n" + "x" * 994])
    assert len(train) == 900  # the one line break is far from the end
    (train,), (valid,), (test,) = assigned(["\n".join([line] * 100)], test_share=0.2)
    assert [round(len(piece) / len(line)) for piece in (train, valid, test)] == [73, 10, 21]


def test_nothing_to_split():
    assert choose_split([], np.zeros(0, dtype=bool), 0.1) is None
    assert choose_split(index(["a"]), np.ones(1, dtype=bool), 0.1) is None
    for text in ("", "x"):
        with pytest.raises(InputError, match="too few for 2 splits"):
            assigned([text])
    with pytest.raises(InputError, match="leave test_share out"):
        assigned(["one", "other"], test_share=0.1)
