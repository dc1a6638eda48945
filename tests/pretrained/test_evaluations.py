"""Minimal pairs, LAMBADA and code lengths against naive loops over whole sentences."""

import json
import math

import numpy as np
import pytest
import torch
from tests.pretrained.small import text_model

from rankbound.corpora.sources import Reading
from rankbound.errors import InputError
from rankbound.pretrained.code_length import code_length, read_texts
from rankbound.pretrained.evaluate import evaluate
from rankbound.pretrained.lambada import lambada, read_passages
from rankbound.pretrained.minimal_pairs import BLIMP, minimal_pairs, read_paradigms
from rankbound.pretrained.scores import macro_average, mean_and_stderr, ratio_and_stderr

GOOD = ["the cat sat on the mat.", "the dogs bark.", "rain falls.", "the dogs bark at them."]
BAD = ["the cat sat in the mat.", "the dogs barks.", "rain fall.", "the dogs bark at them."]


def whole(own, text, end=0):
    """log p of a text after the end of text, from the full matrix of one forward pass."""
    ids = torch.tensor([[end, *own.tokenizer.encode(text).ids]])
    with torch.no_grad():
        log_prob_TV = own.model(ids)[0].double()
    return float(log_prob_TV[:-1].gather(1, ids[0, 1:, None]).sum())


def write_pairs(path, good, bad):
    rows = [{"sentence_good": g, "sentence_bad": b} for g, b in zip(good, bad, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def blimp(tmp_path):
    folder = tmp_path / "blimp"
    folder.mkdir()
    write_pairs(folder / "one.jsonl", GOOD, BAD)
    write_pairs(folder / "two.jsonl", BAD[:2], GOOD[:2])
    return folder


@pytest.mark.parametrize("mixture", [False, True])
def test_minimal_pairs_are_compared_by_whole_sentences(blimp, mixture):
    own = text_model(mixture)
    figures = {(f.task, f.metric): f for f in minimal_pairs(own, read_paradigms(str(blimp)), 60)}
    difference = [whole(own, g) - whole(own, b) for g, b in zip(GOOD, BAD, strict=True)]
    correct = [0.5 if d == 0 else float(d > 0) for d in difference]
    assert correct[3] == 0.5  # the same sentence twice
    assert figures["one", "accuracy"].value == np.mean(correct)
    assert figures["one", "accuracy"].stderr == pytest.approx(np.std(correct, ddof=1) / 2)
    assert figures["one", "difference"].value == pytest.approx(np.mean(difference), abs=1e-4)
    assert figures["two", "difference"].value == pytest.approx(-np.mean(difference[:2]), abs=1e-4)
    both = [figures[name, "accuracy"] for name in ("one", "two")]
    assert figures[BLIMP, "accuracy"].value == pytest.approx(np.mean([f.value for f in both]))
    assert figures[BLIMP, "accuracy"].stderr == pytest.approx(math.hypot(*(f.stderr for f in both)) / 2)
    assert figures[BLIMP, "ties"].value == 1


def test_a_limit_takes_the_first_pairs(blimp):
    assert [len(p.pairs) for p in read_paradigms(str(blimp), 3)] == [3, 2]


def test_lambada_scores_the_last_word_alone(tmp_path):
    own = text_model(mixture=True)
    contexts = ["the cat sat on the", "the dogs bark at"]
    with torch.no_grad():  # the likeliest next token as the last word of a third passage
        ids = torch.tensor([[0, *own.tokenizer.encode("rain falls and the").ids]])
        order = own.model(ids)[0, -1].argsort(descending=True)
    words = [own.tokenizer.decode([int(i)]) for i in order]
    word = next(w for w in words if w.startswith(" ") and w.strip().isalpha())
    path = tmp_path / "lambada.jsonl"
    texts = [f"{contexts[0]} mat", f"{contexts[1]} them", f"rain falls and the{word}"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    passages = read_passages(str(path))
    assert passages[0] == ("the cat sat on the", " mat")
    figures = {f.metric: f for f in lambada(own, passages)}
    nats = [whole(own, context) - whole(own, context + last) for context, last in passages]
    assert figures["perplexity"].value == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)
    error = figures["perplexity"].value * np.std(nats, ddof=1) / math.sqrt(3)
    assert figures["perplexity"].stderr == pytest.approx(error, rel=1e-3)
    first_hit = words[0] == word
    assert figures["accuracy"].value == pytest.approx(1 / 3 if first_hit else 0.0)


def test_bits_per_byte_divide_by_the_bytes_of_the_text():
    own = text_model()
    texts = ["the cat sat", "Café naïve 猫", "rain"]
    figures = {f.metric: f for f in code_length("texts", own, texts)}
    nats = -sum(whole(own, text) for text in texts)
    tokens = sum(len(own.tokenizer.encode(text).ids) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    assert figures["nats_per_token"].value == pytest.approx(nats / tokens, rel=1e-5)
    assert figures["bits_per_byte"].value == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert (figures["nats_per_token"].n, figures["bits_per_byte"].n) == (tokens, size)
    assert "unknown_share" not in figures


def test_without_an_end_of_text_the_bytes_of_the_first_token_do_not_count():
    own = text_model(end_of_text=None)
    figures = {f.metric: f for f in code_length("texts", own, ["the cat"])}
    ids = own.tokenizer.encode("the cat").ids
    first = len(own.decode(ids[:1]))
    assert figures["nats_per_token"].n == len(ids) - 1
    assert figures["bits_per_byte"].n == len("the cat") - first


def test_documents_come_from_any_source(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("one<|endoftext|>two<|endoftext|>three")
    reading = Reading(document_separator="<|endoftext|>")
    assert read_texts(str(path), reading, 2) == ["one", "two"]


def test_standard_errors_are_those_of_the_textbook():
    values = np.random.default_rng(0).normal(size=50)
    assert mean_and_stderr(values)[1] == pytest.approx(values.std(ddof=1) / math.sqrt(50))
    assert math.isnan(mean_and_stderr(values[:1])[1])
    rng = np.random.default_rng(1)
    size = rng.integers(5, 50, (4000, 40)).astype(float)
    nats = size * 2 + rng.normal(size=size.shape) * np.sqrt(size) * 3
    spread = np.std([n.sum() / s.sum() for n, s in zip(nats, size, strict=True)])
    said = np.mean([ratio_and_stderr(n, s)[1] for n, s in zip(nats, size, strict=True)])
    assert said == pytest.approx(spread, rel=0.1)
    assert macro_average(np.array([0.2, 0.6]), np.array([0.03, 0.04])) == pytest.approx((0.4, 0.025))


def test_wrong_files_are_named(tmp_path):
    bad = tmp_path / "bad.jsonl"
    with pytest.raises(InputError, match="no file or folder here"):
        read_paradigms(str(bad))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no"):
        read_paradigms(str(tmp_path / "empty"))
    for text, said in (
        ('{"sentence_good": "a"}', "line 1 has no text in the field sentence_bad"),
        ("nonsense", "line 1 is not JSON"),
        ("", "holds no rows"),
        ('{"sentence_good": "a", "sentence_bad": "\\ud800"}', "half a surrogate"),
    ):
        bad.write_text(text)
        with pytest.raises(InputError, match=said):
            read_paradigms(str(bad))
    bad.write_text('{"text": "word"}')
    with pytest.raises(InputError, match="without a last word"):
        read_passages(str(bad))
    bad.write_bytes(b'{"text": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8"):
        read_passages(str(bad))


def test_a_dataset_that_cannot_be_reached_is_one_line(monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach\n the Hub")

    monkeypatch.setattr(datasets, "get_dataset_config_names", unreachable)
    monkeypatch.setattr(datasets, "get_dataset_split_names", unreachable)
    for read in (read_paradigms, read_passages):
        with pytest.raises(InputError, match=r"Hugging Face \(Couldn't reach the Hub\)") as error:
            read("owner/name")
        assert "\n" not in str(error.value)


def test_a_dataset_of_the_hub_is_read_subset_by_subset(monkeypatch):
    import datasets

    rows = [{"sentence_good": g, "sentence_bad": b} for g, b in zip(GOOD, BAD, strict=True)]
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["one", "two"])
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, subset: ["train"])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, subset, split: rows)
    found = read_paradigms("owner/name", 2)
    assert [(p.name, p.pairs) for p in found] == [
        (name, list(zip(GOOD[:2], BAD[:2], strict=True))) for name in ("one", "two")
    ]


def test_an_output_that_cannot_be_written_is_named_before_a_model_is_read(tmp_path):
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    for output in (tmp_path / "file.txt" / "scores.csv", tmp_path / "folder.csv"):
        with pytest.raises(InputError, match="is in the way"):
            evaluate("no-such-model", text="no-such-text", output=output)
    assert (tmp_path / "file.txt").read_text() == "mine"
