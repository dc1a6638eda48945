import pickle
import random

import numpy as np

from rankbound.corpora.control import Control
from rankbound.corpora.encoding import encode
from rankbound.corpora.spans import SpanRules, WordListFilter
from rankbound.corpora.tokenizer import train_tokenizer

EASY = ["the", "cat", "sat", "on", "mat"]
HARD = ["extraordinarily", "phenomenological", "quixotic", "zymurgy"]


def documents(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        easy = rng.choices(EASY, k=rng.randint(20, 80))
        hard = rng.choices(EASY + HARD, k=rng.randint(0, 80))
        yield " ".join(easy + hard) if rng.random() < 0.7 else " ".join(hard + HARD)


def filtering(overlaps="keep"):
    return WordListFilter(set(EASY), None, SpanRules(window=20, stride=5, min_words=10, overlaps=overlaps))


def test_the_control_has_as_many_tokens_document_by_document():
    texts = list(documents(30, 0))
    for overlaps in ("keep", "join"):
        keep = filtering(overlaps)
        kept = [span for text in texts for span in keep(text)[0]]
        constrained = train_tokenizer(kept, 270)
        control = Control(keep, constrained, seed=3)
        own = train_tokenizer(control.training_texts(texts), 270)
        poor, good = train_tokenizer(["a a"], 64), train_tokenizer(kept * 3, 290)
        for tokenizer in (own, poor, good):  # whether it needs more tokens a word or fewer
            for text in texts:
                spans, _ = keep(text)
                wanted = sum(map(len, encode(constrained, spans)))
                ids = control.ids(text, tokenizer)
                assert len(ids) == wanted
                assert not wanted or ids[-1] == 0
                ends = np.flatnonzero(ids == 0)
                assert (np.diff(ends, prepend=-1) > 1).all()  # no span is cut to nothing
                for piece in np.split(ids, ends + 1)[:-1]:
                    assert tokenizer.decode(piece[:-1].tolist()) in text


def test_the_control_trains_on_as_many_spans_and_holds_words_off_the_list():
    texts = list(documents(30, 1))
    keep = filtering()
    control = Control(keep, train_tokenizer(texts, 270), seed=0)
    spans = list(control.training_texts(texts))
    assert len(spans) == sum(len(keep(text)[0]) for text in texts)
    assert any(word in span for span in spans for word in HARD)


def test_another_process_draws_the_same():
    texts = list(documents(5, 2))
    tokenizer = train_tokenizer(texts, 270)
    control = Control(filtering(), tokenizer, seed=0)
    for text in texts:
        control.ids(text, tokenizer)
    copy = pickle.loads(pickle.dumps(control))
    for text in reversed(texts):
        assert copy.ids(text, tokenizer).tolist() == control.ids(text, tokenizer).tolist()
