import json
import os

import pytest

from rankbound import InputError
from rankbound.corpora import Corpus


def test_a_sound_corpus_verifies(copy, prepared):
    copy.verify()
    assert copy.sha256 == prepared.sha256
    assert not copy.tokens("train").flags.writeable


def test_no_corpus_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match=r"rankbound prepare --corpus .* --output .*nowhere"):
        Corpus(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["train.bin", "valid.bin"])
@pytest.mark.parametrize("length", [0, -1, -2])
def test_a_shard_cut_short_is_named_on_opening(copy, name, length):
    path = copy.path / name
    os.truncate(path, length % path.stat().st_size if length else 0)
    with pytest.raises(InputError, match=f"{name} has .* prepare it again") as caught:
        Corpus(copy.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["train.bin", "valid.bin", "tokenizer.json", "token_bytes.npy"])
def test_a_changed_or_missing_file_is_named(copy, name):
    path = copy.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name} differs .* prepare it again"):
        Corpus(copy.path).verify()
    path.unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        Corpus(copy.path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda card: "{",
        lambda card: "[]",
        lambda card: json.dumps({k: v for k, v in card.items() if k != "dtype"}),
        lambda card: json.dumps({**card, "of_tomorrow": 1}),
    ],
)
def test_a_damaged_card_is_named(copy, damage):
    path = copy.path / "corpus.json"
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(InputError, match=r"corpus\.json is damaged"):
        Corpus(copy.path)


def test_a_card_with_another_identity_does_not_verify(copy):
    path = copy.path / "corpus.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "corpus_sha256": "0" * 64}))
    with pytest.raises(InputError, match=r"corpus\.json was altered"):
        Corpus(copy.path).verify()
