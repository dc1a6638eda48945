"""Small texts made here: lines of words that repeat, so that merges exist, and that differ by file."""

import random

import pytest

from rankbound.corpora import Corpus, prepare

WORDS = ["the", "nation", "naïve", "café", "1789", "12.5", "treaties", "commonwealth", "peace"]
WORDS += ["".join(random.Random(i).choices("aeioulnrst", k=7)) for i in range(40)]


def write_texts(folder, documents, seed=0):
    """Write `documents` files of about 700 words each; return name -> text."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    texts = {}
    for i in range(documents):
        lines = (" ".join(rng.choices(WORDS, k=12)).capitalize() + "." for _ in range(60))
        texts[f"{i:02}.txt"] = "\n".join(lines) + "\n"
        (folder / f"{i:02}.txt").write_text(texts[f"{i:02}.txt"], encoding="utf-8")
    return texts


def snapshot(folder):
    """Every path below a folder with its content and time of change."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def texts(tmp_path):
    return write_texts(tmp_path / "texts", 12)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A corpus of 40 documents at vocabulary 300; tests must not write to it."""
    folder = tmp_path_factory.mktemp("session")
    write_texts(folder / "texts", 40)
    return prepare(str(folder / "texts"), 300, folder / "corpus", valid_share=0.1)


@pytest.fixture
def copy(prepared, tmp_path):
    """A copy of the prepared corpus to damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in prepared.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return Corpus(folder)
