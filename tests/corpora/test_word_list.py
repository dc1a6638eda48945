import random
from collections import Counter
from pathlib import Path

import pytest

from rankbound import InputError
from rankbound.corpora.word_list import WordCounts, WordRules, read_word_list


@pytest.mark.parametrize(
    ("text", "written", "words"),
    [
        ("The CAT", "the cat", ["the", "cat"]),
        ("well-known", "well known", ["well", "known"]),
        ("I saw a cat", "i saw a cat", ["saw", "cat"]),  # one letter: neither looked up nor counted
        ("don't isn\u2019t it's", "don't isn\u2019t it's", ["don", "isn", "it"]),
        ("in 1999, 12.5% of $1,200.", "in #NUMBER, #NUMBER% of $#NUMBER.", ["in", *"##", "of", "#"]),
        ("the 3rd of 7", "the #NUMBER rd of #NUMBER", ["the", "#", "rd", "of", "#"]),
        ("b2b x1", "b2b x1", ["b2b", "x1"]),  # a digit inside a word starts no number
        ("see http://a-b.com/x?1=2 now", "see #HLINK now", ["see", "#HLINK", "now"]),
        ("(HTTPS://A.ORG) #NUMBER", "(#HLINK #number", ["#HLINK", "number"]),
        ("_so_ naïve — é", "_so_ naïve — é", ["so", "naïve"]),
        ("covid-19", "covid #NUMBER", ["covid", "#"]),
    ],
)
def test_texts_are_read_as_the_rules_say(text, written, words):
    expected = ["#NUMBER" if word == "#" else word for word in words]
    assert WordRules().read(text) == (written, expected)


def test_apostrophes_may_be_dropped_and_case_kept():
    assert WordRules(apostrophes="drop").read("Don't 'we'?")[1] == ["dont", "we"]
    assert WordRules(apostrophes="drop").read("Don\u2019t")[0] == "don\u2019t"
    assert WordRules(lower_case=False).read("The Cat") == ("The Cat", ["The", "Cat"])
    assert WordRules(shortest_word=1).read("I saw a cat")[1] == ["i", "saw", "a", "cat"]


def test_a_list_is_one_word_a_line_or_a_column(tmp_path):
    lines = write(tmp_path / "list.txt", "\ufeffcat\r\n\ndon't\nice-cream \na\n" + "dog\n" * 300 + "TRUE\n")
    assert read_word_list(lines, WordRules()) == {"cat", "don", "ice", "cream", "dog", "true"}
    assert "dont" in read_word_list(lines, WordRules(apostrophes="drop"))
    column = write(tmp_path / "list.CSV", ',word,frequency\r\n0,whats,3\r\n1,"cat",2\r\n')
    assert read_word_list(column, WordRules()) == {"whats", "cat"}


def test_words_lost_to_an_earlier_conversion_are_pointed_out(tmp_path, capsys):
    path = write(tmp_path / "list.txt", "cat\nja\ufffdnos\n")
    assert read_word_list(path, WordRules()) == {"cat"}
    assert "1 words hold U+FFFD" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("empty.txt", b"\n \n", "empty.txt is empty"),
        ("upper.txt", b"CAT\nDOG\nbird\n", "capitals in 2 of its 3 words, such as CAT.*lower_case false"),
        ("latin.txt", b"caf\xe9\n", "latin.txt is not UTF-8 at byte 3: convert"),
        ("wide.txt", "cat\n".encode("utf-16"), "wide.txt is not UTF-8 at byte 0, it looks like UTF-16"),
        ("table.txt", b"cat\n0,whats,3\n", "table.txt, line 2: '0,whats,3' is not one word"),
        ("two.txt", b"ice cream\n", "line 1: 'ice cream' is not one word"),
        ("table.csv", b"token,count\ncat,2\n", "has no column word, only token, count"),
        ("empty.csv", b"", "empty.csv has no column word, only an empty file"),
        ("header.csv", b"word\n", "header.csv is empty"),
        ("letters.txt", b"a\nb\n1\n", "no word of 2 letters or more"),
    ],
)
def test_a_bad_list_is_one_line(tmp_path, name, content, fault):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=fault) as caught:
        read_word_list(tmp_path / name, WordRules())
    assert "\n" not in str(caught.value)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read word list .*none.txt: No such file"):
        read_word_list(tmp_path / "none.txt", WordRules())


def test_a_list_in_capitals_suits_text_whose_case_is_kept(tmp_path):
    path = write(tmp_path / "list.txt", "CAT\n")
    assert read_word_list(path, WordRules(lower_case=False)) == {"CAT"}


def test_the_top_words_are_the_most_frequent_and_ties_go_by_alphabet():
    counts = WordCounts()
    for text in ("the cat the dog", "an ox: 12 34 56 78"):
        counts.add(WordRules().read(text)[1])
    assert counts.top(1) == {"the"}
    assert counts.top(3) == {"the", "an", "cat"}
    assert counts.tokens == 10
    for size, fault in ((6, "more than the text holds: it has 5"), (0, "choose from 1 to 5")):
        with pytest.raises(InputError, match=fault):
            counts.top(size)


def test_a_bounded_table_is_short_by_no_more_than_it_says():
    rng = random.Random(0)
    words = [f"w{min(int(rng.paretovariate(0.7)), 4000)}" for _ in range(20_000)]
    bounded = WordCounts(limit=500)
    for start in range(0, len(words), 100):
        bounded.add(words[start : start + 100])
        assert len(bounded.counts) <= 600
    exact = Counter(words)
    assert bounded.tokens == len(words)
    assert bounded.short_by > 0
    for word, count in exact.items():
        assert 0 <= count - bounded.counts[word] <= bounded.short_by


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path
