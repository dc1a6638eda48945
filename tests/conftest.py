"""Shared by all tests: a small prepared corpus, and the command line as a process."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from rankbound.corpora import prepare

SYLLABLES = ("ba", "do", "ki", "lu", "mer", "non")
WORDS = [a + b for a in SYLLABLES for b in SYLLABLES]


def write_text(path: Path, words: int, seed: int) -> Path:
    """Text whose next word depends on the last one, so that there is something to learn."""
    rng = random.Random(seed)
    follows = {word: rng.sample(WORDS, 4) for word in WORDS}
    text = [WORDS[0]]
    for _ in range(words):
        text.append(rng.choice(follows[text[-1]]))
    path.write_text(" ".join(text) + "\n")
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A corpus of 20 small documents, vocabulary 300."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(20):
        write_text(folder / f"{i}.txt", words=900, seed=i % 3)
    output = tmp_path_factory.mktemp("corpus") / "small"
    return prepare(str(folder), 300, output, valid_share=0.1, deduplicate=False).path


class CommandLine:
    """Runs `rankbound` in a process of its own, one thread, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *args: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "rankbound.cli", *map(str, args)],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *args: object, status: int = 0, **environment: str) -> str:
        process = self.start(*args, **environment)
        out, err = process.communicate(timeout=300)
        assert process.returncode == status, out + err
        return out if status == 0 else err


@pytest.fixture
def rankbound(tmp_path) -> CommandLine:
    return CommandLine(tmp_path)
