"""Which words a text is made of, and lists of words that it is held against.

Design decisions:
- The rules are those of "Honey, I Shrunk the Language" (arXiv 2305.17266): a text is lower-cased,
  a hyphen parts two words, numbers become #NUMBER and links #HLINK, what is neither letter nor digit
  is no part of a word, and words of one letter ("a", "I", the "s" of "it's") are not looked up.
  A link is replaced before hyphens and numbers in it could be, and 12.5 is one number.
- The text that is kept is the text that was looked at: with its placeholders, without its hyphens.
- A list goes through the same rules as the text, so "don't" in a list stands for what "don't" in a
  text is looked up as.
- Counts of words are bounded: where a table grows too long its rarest words are dropped, and every
  count is short by at most the number that the table then states.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from rankbound.errors import InputError

NUMBER, LINK = "#NUMBER", "#HLINK"
PLACEHOLDERS = frozenset({NUMBER, LINK})
_QUOTE = "\u2019"  # the apostrophe that typesetting uses
_STRAY_CAPITALS = 0.01  # share of a list; the published one has TRUE and FALSE, from a spreadsheet
_TABLE = 1 << 21  # distinct words: some 300 MB


@dataclass(frozen=True)
class WordRules:
    """How a text is read as words.

    Args:
        lower_case: Lower-case the text first.
        shortest_word: Letters that a word must have to be looked up and counted.
        apostrophes: "don't" is two words, don and t (split), or one, dont (drop): lists made of
            transcribed speech often write dont. The text keeps its apostrophe either way.
    """

    lower_case: bool = True
    shortest_word: int = 2
    apostrophes: Literal["split", "drop"] = "split"

    def read(self, text: str) -> tuple[str, list[str]]:
        """Return the text as it is kept, and the words in it to look up, placeholders among them."""
        words: list[str] = []

        def write(match: re.Match[str]) -> str:
            found = match[0]
            match match.lastgroup:
                case "hyphen":
                    return " "
                case "link":
                    words.append(LINK)
                    return LINK
                case "number":
                    words.append(NUMBER)
                    follows = match.string[match.end() : match.end() + 1]
                    return f"{NUMBER} " if follows.isalnum() else NUMBER
            word = found.replace("'", "").replace(_QUOTE, "")
            if len(word) >= self.shortest_word:
                words.append(word)
            return found

        return self._pattern.sub(write, text.lower() if self.lower_case else text), words

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        letters = r"[^\W_]+"
        word = letters if self.apostrophes == "split" else rf"{letters}(?:['{_QUOTE}]{letters})*"
        link, number = r"https?://\S+", r"(?<![^\W_])\d+(?:[.,]\d+)*"
        return re.compile(
            f"(?P<link>{link})|(?P<number>{number})|(?P<hyphen>-)|(?P<word>{word})", re.IGNORECASE
        )


def read_word_list(path: Path, rules: WordRules) -> frozenset[str]:
    """Read a list of words: one a line, or the column `word` of a .csv file.

    Raises:
        InputError: No file, not UTF-8, no words, more than one word in a line, or capitals that
            lower-cased text can never match.
    """
    lines = _csv_column(path) if path.suffix.lower() == ".csv" else _text(path).splitlines()
    listed = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not listed:
        raise InputError(f"word list {path} is empty: give one word a line")
    for number, line in listed:
        if re.search(r"[\s,;]", line):
            raise InputError(f"word list {path}, line {number}: {line[:40]!r} is not one word")
    if rules.lower_case:
        capitals = [line for _, line in listed if line != line.lower()]
        if len(capitals) > _STRAY_CAPITALS * len(listed):
            raise InputError(
                f"word list {path} has capitals in {len(capitals)} of its {len(listed)} words, such as "
                f"{capitals[0]}, and the text is lower-cased: write the list in small letters, or "
                "set --words.lower_case false"
            )
    if damaged := sum("\ufffd" in line for _, line in listed):
        print(
            f"word list {path}: {damaged} words hold U+FFFD, left by an earlier conversion, and are "
            "of no use",
            file=sys.stderr,
        )
    words = {word for _, line in listed if "\ufffd" not in line for word in rules.read(line)[1]}
    if not words - PLACEHOLDERS:
        raise InputError(
            f"word list {path} has no word of {rules.shortest_word} letters or more that a text could hold"
        )
    return frozenset(words - PLACEHOLDERS)


class WordCounts:
    """How often each word occurs, in bounded memory.

    - `tokens`: words seen, however often
    - `short_by`: most that a count can be too low by; 0 while all distinct words fit
    """

    def __init__(self, limit: int = _TABLE) -> None:
        self.counts: Counter[str] = Counter()
        self.tokens = self.short_by = 0
        self._limit = limit

    def add(self, words: Iterable[str]) -> None:
        """Count the words of a text."""
        self.merge(Counter(words))

    def merge(self, counts: Counter[str], short_by: int = 0) -> None:
        """Add counts made elsewhere, themselves short by at most `short_by`."""
        self.counts.update(counts)
        self.tokens += counts.total()
        self.short_by += short_by
        if len(self.counts) > self._limit:
            keep = self._limit // 2
            cut = sorted(self.counts.values(), reverse=True)[keep]  # so many occur more often or as often
            self.counts = Counter({word: n for word, n in self.counts.items() if n > cut})
            self.short_by += cut

    def top(self, size: int) -> frozenset[str]:
        """The `size` most frequent words; of words as frequent as each other, the first by alphabet.

        Raises:
            InputError: Less than one word asked for, or more than there are.
        """
        words = [word for word in self.counts if word not in PLACEHOLDERS]
        if not 0 < size <= len(words):
            fault = "more than the text holds: it has" if size > 0 else "too few: choose from 1 to"
            raise InputError(f"top_words {size} is {fault} {len(words)} distinct words")
        words.sort(key=lambda word: (-self.counts[word], word))
        return frozenset(words[:size])


def _csv_column(path: Path) -> list[str]:
    rows = csv.DictReader(_text(path).splitlines())
    fields = rows.fieldnames or []
    if "word" not in fields:
        raise InputError(
            f"word list {path} has no column word, only {', '.join(fields) or 'an empty file'}: name "
            "it so, or give a .txt file of one word a line"
        )
    return ["", *((row["word"] or "") for row in rows)]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode().removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"cannot read word list {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        start = path.read_bytes()[:2]
        kind = ", it looks like UTF-16" if start in (b"\xff\xfe", b"\xfe\xff") else ""
        raise InputError(
            f"word list {path} is not UTF-8 at byte {error.start}{kind}: convert it to UTF-8"
        ) from error
