"""Reduced vocabularies as `prepare` makes them."""

import random
from collections import Counter

import numpy as np
import pytest
from tests.corpora.conftest import snapshot

from rankbound import InputError
from rankbound.corpora import Corpus, parts, prepare
from rankbound.corpora.shards import Work
from rankbound.corpora.sources import UnfinishedError
from rankbound.corpora.spans import SpanRules, WordListFilter
from rankbound.corpora.statistics import plug_in_entropy

EASY = [f"{a}{b}" for a in "bdfgklm" for b in ("a", "e", "i", "o")]
HARD = [f"{word}{tail}" for word in EASY for tail in ("ngst", "rmpf", "lx")]
SPANS = SpanRules(window=20, stride=5, min_words=10)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """40 documents of easy words with runs of hard ones, and the easy words as a list."""
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("texts")
    (folder / "all").mkdir()
    weights = [1 / (rank + 1) for rank in range(len(EASY))]
    for i in range(40):
        words = []
        while len(words) < 300:
            words += rng.choices(EASY, weights, k=rng.randint(10, 80)) + rng.choices(EASY + HARD, k=20)
        lines = (" ".join(words[j : j + 12]).capitalize() + "." for j in range(0, len(words), 12))
        (folder / "all" / f"{i:02}.txt").write_text("\n".join(lines))
    (folder / "easy.txt").write_text("\n".join(EASY))
    return folder


def make(texts, output, **settings) -> Corpus:
    return prepare(
        str(texts / "all"), **{"vocab_size": 300, "valid_share": 0.2, "output": output, **settings}
    )


def documents_of(corpus, split):
    ids = np.array(corpus.tokens(split))
    return [corpus.decode(piece.tolist()) for piece in np.split(ids, np.flatnonzero(ids == 0) + 1)[:-1]]


def all_texts(texts):
    return [path.read_text() for path in sorted((texts / "all").iterdir())]


@pytest.mark.parametrize(("kind", "size"), [("unigram", 300), ("bpe", 64), ("bpe", 150), ("unigram", 64)])
def test_every_writer_gives_the_documents_back(texts, tmp_path, kind, size):
    corpus = make(texts, tmp_path / "out", tokenizer=kind, vocab_size=size)
    assert sorted(documents_of(corpus, "train") + documents_of(corpus, "valid")) == sorted(all_texts(texts))
    assert corpus.vocab_size == size
    assert corpus.card.bytes_known
    for name, card in corpus.card.splits.items():
        assert corpus.token_bytes[corpus.tokens(name)].sum() == card.bytes
        assert card.unknown == 0
        assert card.words_per_token == pytest.approx(card.words / card.tokens)
    assert corpus.card.token_types == len(set(np.array(corpus.tokens("train")).tolist()))


def test_words_that_are_not_known_are_counted_and_leave_bytes_undefined(texts, tmp_path):
    corpus = make(texts, tmp_path / "out", tokenizer="word", vocab_size=64)
    for name, card in corpus.card.splits.items():
        assert card.unknown == (np.array(corpus.tokens(name)) == 1).sum() > 0
    assert not corpus.card.bytes_known
    assert not corpus.token_bytes.any()


def test_a_word_list_keeps_its_spans_and_says_what_share(texts, tmp_path):
    corpus = make(texts, tmp_path / "out", vocab_size=270, word_list=texts / "easy.txt", spans=SPANS)
    whole = make(texts, tmp_path / "whole")
    keep = WordListFilter(EASY, None, SPANS)
    for name in ("train", "valid"):
        documents = documents_of(whole, name)
        spans = [span for text in documents for span in keep(text)[0]]
        assert documents_of(corpus, name) == spans
        counts = sum((keep(text)[1] for text in documents[1:]), keep(documents[0])[1])
        card = corpus.card.word_list.counts[name]
        assert card["coverage"] == counts.coverage < 1
        assert card["share_kept"] == counts.share_kept > 0.1
        assert corpus.card.splits[name].documents == card["spans"] == len(spans)
    assert corpus.card.word_list.words == len(EASY)
    assert 1 <= corpus.card.word_list.splits.tokens_per_word <= 3
    assert corpus.card.settings.word_list == "easy.txt"
    assert "word list" in corpus.card.inputs
    assert Corpus(corpus.path).card == corpus.card


def test_the_control_has_as_many_tokens_and_its_own_words(texts, tmp_path):
    settings = {"vocab_size": 270, "word_list": texts / "easy.txt", "spans": SPANS}
    corpus = make(texts, tmp_path / "out", **settings)
    control = make(texts, tmp_path / "control", **settings, control=True)
    for name in ("train", "valid"):
        assert control.card.splits[name].tokens == corpus.card.splits[name].tokens
        assert control.card.word_list.counts[name] == corpus.card.word_list.counts[name]
    words = [
        {word.strip(".") for text in documents_of(c, "train") for word in text.split()}
        for c in (corpus, control)
    ]
    assert words[0] <= set(EASY)
    assert len(words[1] & set(HARD)) > 20
    assert control.sha256 != corpus.sha256


def test_the_top_words_are_those_of_the_train_split(texts, tmp_path):
    corpus = make(texts, tmp_path / "out", vocab_size=270, top_words=20, spans=SPANS)
    whole = make(texts, tmp_path / "whole")
    train = Counter(
        word.strip(".").lower() for text in documents_of(whole, "train") for word in text.split()
    )
    top = sorted(train, key=lambda word: (-train[word], word))[:20]
    kept = {word.strip(".") for text in documents_of(corpus, "train") for word in text.split()}
    assert kept == set(top)
    assert corpus.card.word_list.words == 20


def test_rarer_tokens_become_unknown_and_the_text_stays(texts, tmp_path):
    whole = make(texts, tmp_path / "whole")
    tops = {size: make(texts, tmp_path / f"{size}", tokens_only_top=size) for size in (20, 40)}
    ids = np.array(whole.tokens("train"))
    counts = np.bincount(ids, minlength=300)
    for size, corpus in tops.items():
        new = np.array(corpus.tokens("train"))
        assert len(new) == len(ids)
        assert corpus.vocab_size == size == len(corpus.token_bytes) == len(corpus.card.kept_tokens) + 2
        old = np.array([0, -1, *corpus.card.kept_tokens])
        known = new != 1
        assert (old[new[known]] == ids[known]).all()
        kept = sorted(counts[1:].tolist(), reverse=True)[: size - 2]
        assert corpus.card.splits["train"].unknown == (~known).sum() == counts[1:].sum() - sum(kept)
        assert corpus.card.unigram_entropy == pytest.approx(
            plug_in_entropy(np.bincount(np.array(corpus.tokens("valid")))), abs=0.1
        )
        assert corpus.card.bigram_entropy < corpus.card.unigram_entropy
    small, large = (np.array(tops[size].tokens("valid")) for size in (20, 40))
    assert (small == np.where(large < 20, large, 1)).all()


def test_a_tokenizer_from_elsewhere_is_used_as_it_is(texts, tmp_path):
    first = make(texts, tmp_path / "first")
    second = make(texts, tmp_path / "second", tokenizer=str(tmp_path / "first"), vocab_size=999)
    assert second.vocab_size == 300
    assert second.card.sha256["train.bin"] == first.card.sha256["train.bin"]
    assert "tokenizer" in second.card.inputs


def test_all_ways_together_on_any_number_of_processes_give_the_same_bytes(texts, tmp_path, monkeypatch):
    settings = {"tokenizer": "unigram", "vocab_size": 70, "top_words": 25, "spans": SPANS, "control": True}
    settings["tokens_only_top"] = 20
    alone = make(texts, tmp_path / "alone", **settings)
    monkeypatch.setattr(parts, "PART", 9000)
    shared = make(texts, tmp_path / "shared", **settings, processes=2)
    assert alone.card == shared.card
    assert (tmp_path / "alone" / "train.bin").read_bytes() == (
        tmp_path / "shared" / "train.bin"
    ).read_bytes()


def test_stopped_in_the_middle_it_goes_on_with_the_same_words_and_tokenizers(texts, tmp_path, monkeypatch):
    settings = {"vocab_size": 270, "top_words": 25, "spans": SPANS, "control": True}
    whole = make(texts, tmp_path / "whole", **settings)
    monkeypatch.setattr(parts, "PART", 9000)
    encode = Work.encode

    def stops(self, number, tick):
        if number == 3:
            raise UnfinishedError("the power went")
        encode(self, number, tick)

    with monkeypatch.context() as patched:
        patched.setattr(Work, "encode", stops)
        with pytest.raises(UnfinishedError):
            make(texts, tmp_path / "out", **settings, processes=1)
    monkeypatch.setattr("rankbound.corpora.vocabulary.train_tokenizer", None)  # nothing is decided again
    assert make(texts, tmp_path / "out", **settings).card == whole.card


def test_another_list_under_the_same_name_is_another_corpus(texts, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\n".join(EASY))
    make(texts, tmp_path / "out", vocab_size=270, word_list=path, spans=SPANS)
    path.write_text("\n".join(EASY[:20]))
    with pytest.raises(InputError, match="holds a corpus of another text"):
        make(texts, tmp_path / "out", vocab_size=270, word_list=path, spans=SPANS)


def test_default_outputs_tell_vocabularies_apart(texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [
        make(texts, None, vocab_size=270, word_list=texts / "easy.txt", spans=SPANS, control=True),
        make(texts, None, tokenizer="word", vocab_size=64, tokens_only_top=40),
    ]
    assert [str(corpus.path) for corpus in made] == ["data/all-270-easy-control", "data/all-64-word-top40"]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"vocab_size": 63}, "vocab_size 63 is too small"),
        (
            {"tokenizer": "wordpiece"},
            "tokenizer wordpiece .*without network|tokenizer wordpiece is neither",
        ),
        ({"tokenizer": "none.json"}, "tokenizer none.json does not exist"),
        ({"end_of_text": "</s>"}, "end_of_text is for a tokenizer from elsewhere"),
        ({"word_list": "none.txt"}, "cannot read word list none.txt"),
        ({"word_list": "easy.txt", "top_words": 3}, "are two lists"),
        ({"control": True, "spans": SPANS}, "control and spans are of a word list"),
        ({"top_words": 0}, "top_words 0 is too few"),
        ({"top_words": 10**6}, "top_words 1000000 is more than the text holds"),
        ({"top_words": 1}, "no span of the train split is kept"),
        ({"tokens_only_top": 2}, "tokens_only_top 2 is out of reach"),
        ({"tokens_only_top": 301}, "tokens_only_top 301 is out of reach: choose from 3 to the 300"),
        ({"tokens_only_top": 300}, "tokens_only_top 300 is more than the train split uses: choose at most"),
        (
            {"tokenizer": "word", "vocab_size": 500},
            "more than the text supports: .* yields 1?[0-9]+ tokens",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(texts, tmp_path, monkeypatch, settings, fault):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "easy.txt").write_text("\n".join(EASY))
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=fault) as caught:
        make(texts, tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before
