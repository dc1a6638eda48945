import itertools
import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rankbound.corpora.tokenizer import (
    END_OF_TEXT,
    cut_pieces,
    encode,
    load_tokenizer,
    token_lengths,
    train_tokenizer,
)

TEXT = "The people of the United States, in order to form a more perfect union.\n" * 3
tokenizer = train_tokenizer([TEXT], 290)
prose = st.text(alphabet="ab.' \n\t\x1c\u00a0\u3000é中1", max_size=200) | st.text(max_size=50)


def ids_of(texts):
    return np.concatenate(list(encode(tokenizer, texts)))


@given(st.lists(prose, min_size=1, max_size=5))
def test_decoding_gives_the_texts_back_and_zero_ends_each(texts):
    ids = ids_of(texts)
    ends = np.flatnonzero(ids == 0)
    assert len(ends) == len(texts)
    assert ends[-1] == len(ids) - 1
    documents = [d[d != 0].tolist() for d in np.split(ids, ends + 1)[:-1]]
    assert [tokenizer.decode(d) for d in documents] == texts


@given(prose)
def test_byte_lengths_add_up_to_the_text(text):
    assert token_lengths(tokenizer)[ids_of([text])].sum() == len(text.encode())


@settings(max_examples=300)
@given(prose, st.integers(1, 40))
def test_cutting_a_text_changes_no_token(text, size):
    pieces = list(cut_pieces(text, size))
    assert "".join(pieces) == text
    in_pieces = [i for e in tokenizer.encode_batch(pieces) for i in e.ids]
    assert in_pieces == tokenizer.encode(text).ids


def test_long_texts_are_really_cut():
    assert max(map(len, cut_pieces(TEXT, 20))) < 40
    assert len(list(encode(tokenizer, [TEXT * 6_000]))) > 1


def test_the_smallest_vocabulary_is_the_bytes():
    smallest = train_tokenizer([TEXT], 257)
    assert smallest.get_vocab_size() == 257
    assert token_lengths(smallest).tolist() == [0] + [1] * 256
    assert smallest.decode(smallest.encode("né").ids) == "né"


def test_a_spelled_out_end_of_text_is_ordinary_text_also_after_loading(tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for each in (tokenizer, load_tokenizer(tmp_path / "tokenizer.json")):
        ids = each.encode(f"a{END_OF_TEXT}b").ids
        assert 0 not in ids
        assert each.decode(ids) == f"a{END_OF_TEXT}b"


def test_merges_follow_the_definition_of_byte_pair_encoding():
    """Each merge is of a most frequent pair, counted here over the words of the text."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [list(word) for word, _ in splitter.pre_tokenize_str(TEXT)]
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    assert len(merges) == 290 - 257
    for merge in merges:
        pairs = [pair for word in words for pair in itertools.pairwise(word)]
        assert pairs.count(merge) == max(map(pairs.count, pairs)) > 1
        words = [apply(merge, word) for word in words]


def apply(pair, word):
    merged, i = [], 0
    while i < len(word):
        if tuple(word[i : i + 2]) == pair:
            merged.append("".join(pair))
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged


def test_the_file_needs_nothing_of_ours_to_be_read(tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert isinstance(plain.model, models.BPE)
    assert isinstance(plain.decoder, decoders.ByteLevel)
    assert plain.encode(TEXT).ids == tokenizer.encode(TEXT).ids
