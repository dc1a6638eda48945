import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankbound import InputError
from rankbound.corpora.spans import SpanCounts, SpanRules, WordListFilter
from rankbound.corpora.word_list import WordRules

LISTED = {"the", "cat", "sat", "on", "mat"}
small = SpanRules(window=4, stride=2, min_words=3)


def spans(text, rules=small, words=None, listed=LISTED):
    return WordListFilter(listed, words, rules)(text)[0]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        # windows start at words 0, 2, 4: "the cat sat on", "sat on the mat", "the mat" (two words only)
        ("the cat sat on the mat", ["the cat sat on", "sat on the mat"]),
        # "rug" is not listed: the windows that hold it fall
        ("the cat sat on the rug the cat sat", ["the cat sat on", "the cat sat"]),
        # three words are enough, two are not
        ("the cat sat", ["the cat sat"]),
        ("the cat", []),
        # a letter is neither looked up nor counted
        ("a cat sat x", []),
        ("a cat sat on", ["a cat sat on"]),
        # placeholders pass and count; line ends stay
        ("The cat,\n 12.5 http://x.org/a-b", ["the cat,\n #NUMBER #HLINK"]),
        # a hyphen parts what is looked up, not what windows count
        ("cat-mat the sat on", ["cat mat the sat on"]),
        ("cat-rug the sat on", []),
        ("", []),
    ],
)
def test_hand_checked_cases(text, kept):
    assert spans(text) == kept


def test_the_published_rule_is_more_than_forty_words_in_windows_of_110_every_30():
    assert spans(" ".join(["cat"] * 40), SpanRules()) == []
    assert spans(" ".join(["cat"] * 41), SpanRules()) == [" ".join(["cat"] * 41)]
    kept = spans(" ".join(["cat"] * 150), SpanRules())
    assert [len(span.split()) for span in kept] == [110, 110, 90, 60]  # from 0, 30, 60, 90; 120 has 30
    one_out = ["cat"] * 150
    one_out[29] = "rug"
    assert [len(s.split()) for s in spans(" ".join(one_out), SpanRules())] == [110, 90, 60]


def test_overlaps_may_be_joined():
    joined = SpanRules(window=4, stride=2, min_words=3, overlaps="join")
    assert spans("the cat sat on the mat", joined) == ["the cat sat on the mat"]
    assert spans("the cat sat on the rug the cat sat", joined) == ["the cat sat on", "the cat sat"]


WORDS = [
    "the",
    "Cat",
    "sat",
    "on",
    "rug",
    "a",
    "mat-cat",
    "mat-rug",
    "7",
    "don't",
    "x9",
    "http://a.b",
    "--",
    "mat.",
]


@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from([" ", "\n", "  "])), max_size=40),
    st.integers(1, 8),
    st.integers(1, 5),
    st.integers(1, 8),
    st.booleans(),
)
def test_every_window_is_judged_as_its_text_alone_would_be(pairs, window, stride, min_words, join):
    text = "".join(word + space for word, space in pairs)
    rules = SpanRules(window, stride, min(min_words, window), "join" if join else "keep")
    kept, counts = WordListFilter(LISTED, None, rules)(text)
    words, inside, expected, last_end = text.split(), set(), [], -1
    for start in range(0, len(words), stride):
        end = min(start + window, len(words))
        _, parts = WordRules().read(" ".join(words[start:end]))
        if len(parts) >= rules.min_words and all(p in LISTED or p.startswith("#") for p in parts):
            inside |= set(range(start, end))
            if join and start <= last_end:
                expected[-1] = expected[-1][0], max(end, last_end)
            else:
                expected.append((start, end))
            last_end = expected[-1][1]
    as_written = [WordRules().read(" ".join(words[a:b]))[0].strip() for a, b in expected]
    assert [" ".join(span.split()) for span in kept] == [" ".join(w.split()) for w in as_written]
    parts = WordRules().read(text)[1]
    listed = sum(p in LISTED or p.startswith("#") for p in parts)
    in_spans = sum(len(WordRules().read(words[i])[1]) for i in inside)
    assert counts == SpanCounts(len(parts), listed, in_spans, len(kept))


def test_counts_add_up_over_documents():
    total = SpanCounts(10, 8, 4, 1) + SpanCounts(10, 6, 1, 2)
    assert (total.coverage, total.share_kept, total.spans) == (0.7, 0.25, 3)
    assert SpanCounts().coverage == SpanCounts().share_kept == 0


def test_the_control_is_as_long_from_the_same_document_and_unconstrained():
    rng = random.Random(0)
    words = [f"{rng.choice(['the', 'cat', 'sat'])}{'.' * (i % 3)}" for i in range(300)]
    for i in range(120, 300, 7):
        words[i] = "rug"
    text = " ".join(words)
    for overlaps in ("keep", "join"):
        filtering = WordListFilter(
            LISTED, None, SpanRules(window=20, stride=5, min_words=10, overlaps=overlaps)
        )
        kept, _ = filtering(text)
        control = filtering.control(text, seed=1)
        drawn = [next(control) for _ in kept]
        assert [len(s.split()) for s in drawn] == [len(s.split()) for s in kept]
        assert all(span in text for span in drawn)
        again = filtering.control(text, seed=1)
        assert drawn == [next(again) for _ in kept]
    windows = SpanRules(window=20, stride=5, min_words=10)
    drawn = WordListFilter(LISTED, None, windows).control(text, seed=1)
    all_of_them = [next(drawn) for _ in range(60)]  # as many as there are windows
    starts = {text.index(span) for span in all_of_them if len(span.split()) == 20}
    assert any(re.search("rug", span) for span in all_of_them[:22])
    assert len(starts) >= 50  # each place once before any comes again
    other = WordListFilter(LISTED, None, windows).control(text, seed=2)
    assert [next(other) for _ in range(5)] != all_of_them[:5]


def test_there_is_no_control_of_a_document_that_gave_nothing():
    assert list(WordListFilter(LISTED, None, small).control("the rug sat on the rug", 0)) == []


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ({"window": 0}, "window 0 is too small"),
        ({"stride": 0}, "stride 0 is too small"),
        ({"min_words": 0}, "min_words 0 is too small"),
        ({"window": 40}, "min_words 41 is more than the window of 40 words"),
    ],
)
def test_rules_that_keep_nothing_or_never_end_are_refused(rules, fault):
    with pytest.raises(InputError, match=fault):
        SpanRules(**rules)
