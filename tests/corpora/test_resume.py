"""Preparing in real processes that are killed, and on several processes: the same bytes in the end."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
from tests.corpora.conftest import snapshot, write_texts

from rankbound import InputError
from rankbound.corpora import parts, prepare, shards
from rankbound.corpora.disk import locked
from rankbound.corpora.sources import UnfinishedError
from rankbound.corpora.sources.text_files import TextFiles

pytestmark = pytest.mark.slow

SETTINGS = {"vocab_size": 300, "valid_share": 0.2, "test_share": 0.2}

#: Prepares in parts of 9,000 bytes and prints what it writes; it kills itself in the middle of one file.
PROGRAM = """
import os, signal, sys
from rankbound.corpora import assemble, disk, parts, prepare, reduction, shards

corpus, output, processes, deadly = sys.argv[1:]
parts.PART = 9000

def write(path, chunks):
    print(path.name, file=sys.stderr, flush=True)
    def half():
        for chunk in chunks:
            yield chunk[: len(chunk) // 2] if path.name == deadly else chunk
            if path.name == deadly:
                os.kill(os.getpid(), signal.SIGKILL)
    disk.write(path, half())

def forget(self, number, original=parts.Parts.forget):
    if deadly == "a part encoded":
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, number)

parts.write = shards.write = assemble.write = reduction.write = write
parts.Parts.forget = forget
prepare(corpus, output=output, processes=int(processes), **SETTINGS)
""".replace("SETTINGS", repr(SETTINGS))


def run(corpus, output, processes=1, deadly="none"):
    """Exit status, and the names of the files written by the main process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, corpus, output, str(processes), deadly],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The documents as JSON lines, and the bytes of their corpus, prepared in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    texts = write_texts(folder / "texts", 12)
    lines = [json.dumps({"text": text}) for text in [*texts.values(), texts["00.txt"], " "]]
    (folder / "x.jsonl").write_text("\n".join(lines))
    prepare(str(folder / "x.jsonl"), output=folder / "out", **SETTINGS)
    return folder / "x.jsonl", contents(folder / "out")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("deadly", "done"),
    [
        ("read-00003.txt", "read-00002.json"),
        ("tokenizer.json", "read-00005.json"),
        ("tokens-00002.train.bin", "tokens-00001.json"),
        ("tokens-00004.json", "tokens-00003.json"),
        ("corpus.json", "tokens-00005.json"),
    ],
)
def test_killed_anywhere_it_goes_on_and_ends_with_the_same_bytes(undisturbed, tmp_path, deadly, done):
    corpus, expected = undisturbed
    status, written = run(corpus, tmp_path / "out", deadly=deadly)
    assert status == -signal.SIGKILL
    assert written[-1] == deadly
    assert not (tmp_path / "out").exists()
    status, again = run(corpus, tmp_path / "out")
    assert status == 0, again
    assert contents(tmp_path / "out") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert done in written
    assert not {done, "read-00000.txt"} & set(again)


def test_killed_among_workers_it_goes_on_and_ends_with_the_same_bytes(undisturbed, tmp_path):
    corpus, expected = undisturbed
    assert run(corpus, tmp_path / "out", processes=2, deadly="a part encoded")[0] == -signal.SIGKILL
    status, again = run(corpus, tmp_path / "out", processes=2)
    assert status == 0, again
    assert contents(tmp_path / "out") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_number_of_processes_changes_no_byte(undisturbed, tmp_path, monkeypatch, processes):
    corpus, expected = undisturbed
    monkeypatch.setattr(parts, "PART", 9000)
    prepare(str(corpus), output=tmp_path / "out", processes=processes, **SETTINGS)
    assert contents(tmp_path / "out") == expected


def test_other_settings_or_text_start_anew(undisturbed, tmp_path):
    corpus, _ = undisturbed
    run(corpus, tmp_path / "out", deadly="corpus.json")
    made = prepare(str(corpus), output=tmp_path / "out", **{**SETTINGS, "seed": 1})
    fresh = prepare(str(corpus), output=tmp_path / "fresh", **{**SETTINGS, "seed": 1})
    assert made.card == fresh.card
    assert {path.name for path in tmp_path.iterdir()} == {"out", "fresh"}


def test_a_source_that_fails_midway_is_gone_on_with(tmp_path, monkeypatch):
    texts = write_texts(tmp_path / "texts", 12)
    expected = prepare(str(tmp_path / "texts"), output=tmp_path / "whole", **SETTINGS)
    monkeypatch.setattr(parts, "PART", 9000)
    read = TextFiles.read
    calls = []

    def fails(self, path):
        calls.append(path.name)
        if len(calls) == 8:
            raise UnfinishedError("the line went dead: go online")
        yield from read(self, path)

    monkeypatch.setattr(TextFiles, "read", fails)
    with pytest.raises(UnfinishedError, match="went dead"):
        prepare(str(tmp_path / "texts"), output=tmp_path / "out", **SETTINGS)
    kept = list((tmp_path / ".out.partial").glob("read-*.json"))
    assert 0 < len(kept) < len(texts)
    made = prepare(str(tmp_path / "texts"), output=tmp_path / "out", **SETTINGS)
    assert made.card == expected.card
    assert not (tmp_path / ".out.partial").exists()


def test_a_worker_that_dies_is_one_line_and_its_work_is_gone_on_with(undisturbed, tmp_path, monkeypatch):
    corpus, expected = undisturbed
    monkeypatch.setattr(parts, "PART", 9000)

    def dies(folder):
        return subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    with monkeypatch.context() as patched:
        patched.setattr(shards, "_worker", dies)
        with pytest.raises(
            UnfinishedError, match=r"was ended \(status 0\).*same command goes on"
        ) as caught:
            prepare(str(corpus), output=tmp_path / "out", processes=2, **SETTINGS)
    assert "\n" not in str(caught.value)
    prepare(str(corpus), output=tmp_path / "out", processes=2, **SETTINGS)
    assert contents(tmp_path / "out") == expected


def test_a_disk_that_fills_up_in_a_worker_leaves_nothing(undisturbed, tmp_path, monkeypatch):
    corpus, _ = undisturbed
    monkeypatch.setattr(parts, "PART", 9000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = snapshot(tmp_path)
    encode_parts = shards.encode_parts

    def on_a_full_disk(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            encode_parts(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr("rankbound.corpora.build.encode_parts", on_a_full_disk)
    with pytest.raises(InputError, match=r"cannot write .*out: File too large"):
        prepare(str(corpus), output=tmp_path / "out", processes=2, **SETTINGS)
    assert snapshot(tmp_path) == before


def test_two_at_once_do_not_meet(undisturbed, tmp_path):
    corpus, _ = undisturbed
    with (
        locked(tmp_path / ".out.partial", "out"),
        pytest.raises(InputError, match="out is being made by another process"),
    ):
        prepare(str(corpus), output=tmp_path / "out", **SETTINGS)
    prepare(str(corpus), output=tmp_path / "out", **SETTINGS)
