import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankbound import InputError
from rankbound.corpora.encoding import encode
from rankbound.corpora.tokenizer import token_lengths, train_tokenizer
from rankbound.corpora.top_tokens import top_tokens

TEXT = "The people of the United States, in order to form a more perfect union.\n" * 3


def test_rarer_tokens_become_unknown_and_the_rest_is_numbered_by_count():
    counts = np.array([3, 5, 0, 9, 5, 1])
    top = top_tokens(counts, 4)
    assert top.kept.tolist() == [3, 1]  # 4 is as frequent as 1 and comes later
    assert top.renumber(np.array([0, 1, 2, 3, 4, 5], dtype=np.uint16)).tolist() == [0, 3, 1, 2, 1, 1]
    assert top.lengths(np.array([0, 10, 20, 30, 40, 50], dtype=np.int32)).tolist() == [0, 0, 30, 10]


def test_a_tokenizer_that_knows_unknown_words_keeps_one_such_id():
    top = top_tokens(np.array([3, 50, 2, 9]), 4, unknown_id=1)
    assert top.kept.tolist() == [3, 2]
    assert top.renumber(np.array([0, 1, 2, 3])).tolist() == [0, 1, 3, 2]


@given(st.lists(st.integers(0, 20), min_size=3, max_size=30), st.data())
def test_sizes_are_nested_and_none_kept_is_rarer_than_one_dropped(counts, data):
    counts = np.array(counts)
    used = int((counts[1:] > 0).sum())
    if used == 0:
        return
    size = data.draw(st.integers(3, used + 2))
    top, all_of_them = top_tokens(counts, size), top_tokens(counts, used + 2)
    ids = np.arange(len(counts))
    small, large = top.renumber(ids), all_of_them.renumber(ids)
    assert (small == np.where(large < size, large, 1)).all()
    dropped = [i for i in ids[1:] if i not in top.kept]
    assert not dropped or counts[top.kept].min() >= counts[dropped].max()


def test_the_text_comes_back_but_for_the_unknown():
    tokenizer = train_tokenizer([TEXT], 280)
    (ids,) = encode(tokenizer, [TEXT])
    counts = np.bincount(ids, minlength=280)
    top = top_tokens(counts, int((counts > 0).sum()) + 1)
    new = top.renumber(ids)
    assert top.decode(tokenizer, new.tolist()) == TEXT
    assert top.lengths(token_lengths(tokenizer))[new].sum() == len(TEXT)
    one_less = top_tokens(counts, top.size - 1)
    rarest = tokenizer.decode([int(top.kept[-1])])
    assert TEXT.count(rarest) == 3
    assert one_less.decode(tokenizer, one_less.renumber(ids).tolist()) == TEXT.replace(rarest, "<|unk|>")


@pytest.mark.parametrize(
    ("size", "fault"), [(2, "too small.* make 3"), (5, "more than the train .* at most 4")]
)
def test_sizes_out_of_reach_are_refused(size, fault):
    with pytest.raises(InputError, match=f"tokens_only_top {size} is {fault}"):
        top_tokens(np.array([3, 5, 0, 9]), size)
