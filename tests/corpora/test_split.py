import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankbound.corpora.split import choose_split


def assigned(texts, share=0.1, seed=0):
    split = choose_split(texts, share, seed)
    return list(split.texts(texts, "train")), list(split.texts(texts, "valid"))


@given(
    st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=40),
    st.floats(0.01, 0.99),
    st.integers(0, 1000),
    st.randoms(),
)
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


def test_the_share_of_bytes_is_met_and_the_seed_chooses_the_documents():
    texts = [f"{i} " * (50 + i % 7) for i in range(400)]
    train, valid = assigned(texts, 0.05)
    held_out = sum(map(len, valid)) / sum(map(len, train + valid))
    assert held_out == pytest.approx(0.05, abs=0.003)
    assert set(assigned(texts, 0.05, seed=1)[1]) != set(valid)


@given(st.text(min_size=2, max_size=300), st.floats(0.01, 0.99))
def test_a_single_text_is_cut_into_two_full_pieces(text, share):
    (train,), (valid,) = assigned([text], share)
    assert train
    assert valid
    assert train + valid == text


def test_a_single_text_is_cut_after_the_nearest_line_break_else_a_space():
    line = "a line of twenty-six chars"
    (train,), (valid,) = assigned(["\n".join([line] * 100)])
    assert train == (line + "\n") * 90
    assert valid.startswith(line)
    (train,), _ = assigned([" ".join([line] * 100)])
    assert train.endswith(" ")
    (train,), _ = assigned(["title\n" + "x" * 994])
    assert len(train) == 900  # the one line break is far from the end


@pytest.mark.parametrize("texts", [[], [""], ["x"]])
def test_nothing_to_split(texts):
    assert choose_split(texts, 0.1, 0) is None
