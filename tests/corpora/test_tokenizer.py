import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rankbound import InputError
from rankbound.corpora import encoding
from rankbound.corpora.encoding import encode, encode_words
from rankbound.corpora.folding import ESCAPES, SYMBOLS
from rankbound.corpora.tokenizer import (
    END_OF_TEXT,
    KINDS,
    UNKNOWN,
    cut_pieces,
    load_tokenizer,
    token_lengths,
    train_tokenizer,
    vocabulary_size,
)

TEXT = "The people of the United States, in order to form a more perfect union.\n" * 3
prose = st.text(alphabet="abA.'⇧① \n\t\x1c\u00a0\u3000é中1", max_size=200) | st.text(max_size=50)

RICH = " ".join(f"{w} {w}ing re{w} {w[::-1]}" for w in TEXT.split()) * 2

# every kind that can write every text, byte-level and folded
WRITERS = {
    f"{kind}-{size}": train_tokenizer([TEXT if kind == "bpe" else RICH], size, kind)
    for kind, sizes in {"bpe": (290, 64, 90), "unigram": (290, 64, 90)}.items()
    for size in sizes
}
tokenizer = WRITERS["bpe-290"]
WORDS = train_tokenizer([RICH], 64, "word")
every_writer = pytest.mark.parametrize("name", WRITERS)


def ids_of(texts, tokenizer=tokenizer):
    return np.concatenate(list(encode(tokenizer, texts)))


@every_writer
@settings(max_examples=40)
@given(texts=st.lists(prose, min_size=1, max_size=5))
def test_decoding_gives_the_texts_back_and_zero_ends_each(name, texts):
    ids = ids_of(texts, WRITERS[name])
    ends = np.flatnonzero(ids == 0)
    assert len(ends) == len(texts)
    assert ends[-1] == len(ids) - 1
    documents = [d[d != 0].tolist() for d in np.split(ids, ends + 1)[:-1]]
    assert [WRITERS[name].decode(d) for d in documents] == texts


@every_writer
@settings(max_examples=40)
@given(text=prose)
def test_byte_lengths_add_up_to_the_text(name, text):
    assert token_lengths(WRITERS[name])[ids_of([text], WRITERS[name])].sum() == len(text.encode())


@every_writer
@settings(max_examples=60)
@given(text=prose, size=st.integers(1, 40))
def test_cutting_a_text_changes_no_token(name, text, size):
    tokenizer = WRITERS[name]
    pieces = list(cut_pieces(text, size))
    assert "".join(pieces) == text
    in_pieces = [i for e in tokenizer.encode_batch(pieces) for i in e.ids]
    assert in_pieces == tokenizer.encode(text).ids


@pytest.mark.parametrize("remembered", [2, 1 << 18])
@pytest.mark.parametrize("name", [*WRITERS, "word"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(prose, min_size=1, max_size=5))
def test_remembering_words_changes_no_token(name, remembered, texts, monkeypatch):
    monkeypatch.setattr(encoding, "_REMEMBERED", remembered)
    monkeypatch.setattr(encoding, "_BATCH", 100)
    tokenizer = WRITERS.get(name, WORDS)
    whole = [i for e in tokenizer.encode_batch(texts) for i in [*e.ids, 0]]
    assert ids_of(texts * 2, tokenizer).tolist() == whole * 2


def test_long_texts_are_really_cut():
    assert max(map(len, cut_pieces(TEXT, 20))) < 40
    assert len(list(encode(tokenizer, [TEXT * 6_000]))) > 1


def test_the_smallest_vocabulary_is_the_bytes():
    smallest = train_tokenizer([TEXT], 257)
    assert smallest.get_vocab_size() == 257
    assert token_lengths(smallest).tolist() == [0] + [1] * 256
    assert smallest.decode(smallest.encode("né").ids) == "né"


def test_a_spelled_out_end_of_text_is_ordinary_text_also_after_loading(tmp_path):
    for written in WRITERS.values():
        written.save(str(tmp_path / "tokenizer.json"))
        for each in (written, load_tokenizer(tmp_path / "tokenizer.json")):
            ids = each.encode(f"a{END_OF_TEXT}b {END_OF_TEXT}").ids
            assert 0 not in ids
            assert each.decode(ids) == f"a{END_OF_TEXT}b {END_OF_TEXT}"


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


def test_the_default_is_byte_for_byte_what_it_was():
    """The same file as plain calls of the library give: what corpora made earlier hold."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain.train_from_iterator([TEXT], trainer)
    assert train_tokenizer([TEXT], 290).to_str() == plain.to_str()


@every_writer
def test_ids_start_with_the_end_of_text_and_the_alphabet(name):
    size = name.split("-")[1]
    lengths = token_lengths(WRITERS[name])
    alphabet = 256 if int(size) > 256 else 63
    assert vocabulary_size(WRITERS[name]) == WRITERS[name].get_vocab_size() == int(size)
    assert WRITERS[name].id_to_token(0) == END_OF_TEXT
    assert all(len(WRITERS[name].id_to_token(i)) == 1 for i in range(1, alphabet + 1))
    assert (lengths[1 + alphabet :] > 0).all()


def test_folding_writes_small_letters_as_they_are_and_capitals_with_shift():
    folded = WRITERS["bpe-64"]
    assert folded.encode("a, B\n").tokens == ["a", ",", "Ġ", "⇧", "b", "Ċ"]
    lone = folded.encode("é").tokens
    assert len(lone) == 4
    assert set(lone[::2]) < set(ESCAPES)
    shift = folded.token_to_id("⇧")
    assert folded.decode([shift, shift, folded.token_to_id("a"), shift]) == "A"  # only a model writes this


def test_every_byte_has_its_own_symbols():
    assert len(SYMBOLS) == len(set(SYMBOLS)) == 63
    folded = WRITERS["bpe-64"]
    characters = [chr(i) for i in range(128)] + [chr(i) for i in range(0x80, 0x800)]
    written = {c: tuple(folded.encode(c).ids) for c in characters}
    assert len(set(written.values())) == len(characters)
    assert all(folded.decode(list(ids)) == c for c, ids in written.items())


def test_words_are_the_most_frequent_and_the_others_unknown():
    text = " b a b a b z <|unk|> c c y"
    words = train_tokenizer([text], 64, "word")
    assert [words.id_to_token(i) for i in range(vocabulary_size(words))] == [
        END_OF_TEXT, UNKNOWN, "Ġb", "Ġa", "Ġc",
    ]  # fmt: skip
    ids = words.encode(" a z b <|unk|><|endoftext|>").ids
    assert ids[:3] == [3, 1, 2]  # z was seen only once
    assert 0 not in ids
    assert set(ids[3:]) == {1}
    assert token_lengths(words).tolist() == [0, 0, 2, 2, 2]


def test_unigram_segments_as_a_search_over_all_segmentations_does():
    unigram = WRITERS["unigram-290"]
    scores = dict(json.loads(unigram.to_str())["model"]["vocab"])
    for word, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(TEXT[:72]):
        cuts = itertools.chain.from_iterable(
            itertools.combinations(range(1, len(word)), n) for n in range(len(word))
        )
        ways = [[word[i:j] for i, j in itertools.pairwise((0, *cut, len(word)))] for cut in cuts]
        known = [way for way in ways if all(piece in scores for piece in way)]
        best = max(sum(scores[piece] for piece in way) for way in known)
        own = sum(scores[t] for t in unigram.encode(word.replace("Ġ", " ").replace("Ċ", "\n")).tokens)
        assert own == pytest.approx(best)


def test_training_is_the_same_in_another_process():
    code = (
        "import sys; from rankbound.corpora.tokenizer import train_tokenizer, KINDS\n"
        "text = sys.stdin.read()\n"
        "for kind in KINDS:\n"
        "    for size in (80, 400):\n"
        "        print(train_tokenizer([text], size, kind).to_str())"
    )
    text = RICH + "".join(f"{w} and {w[::-1]}ing {w * 2}, " for w in sorted(set(TEXT.split())))
    runs = [
        subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert len(runs[0].stdout.splitlines()) == 2 * len(KINDS)
    assert len({run.stdout for run in runs}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_too_small_a_vocabulary_is_refused(kind):
    with pytest.raises(InputError, match=r"vocab_size 63 is too small.* 64 tokens at least"):
        train_tokenizer([TEXT], 63, kind)


def test_words_are_split_as_behind_a_space():
    assert list(encode_words(tokenizer, ["the", "people"])) == [["t", "he"], ["p", "eo", "ple"]]
    assert list(encode_words(WRITERS["bpe-64"], ["ab"])) == [["a", "b"]]
