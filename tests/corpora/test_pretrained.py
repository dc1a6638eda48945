import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from rankbound import InputError
from rankbound.corpora.encoding import encode
from rankbound.corpora.pretrained import pretrained_tokenizer
from rankbound.corpora.tokenizer import token_lengths, train_tokenizer, vocabulary_size

TEXT = "The people of the United States, in order to form a more perfect union.\n" * 3


def byte_level(path, end="<|endoftext|>", extra=()):
    """Like GPT-2's: the end of text is the last id, and a template would add it to every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens([end])
    tokenizer.add_tokens(list(extra))
    end_id = tokenizer.token_to_id(end)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{end} $A", special_tokens=[(end, end_id)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.save(str(path))
    return tokenizer, end_id


def pieces(path):
    """Like T5's: sentencepiece unigram with white space as a letter, the end of text at id 1."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=list("</>é"),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(path))
    return tokenizer


def test_the_end_of_text_trades_ids_with_what_had_id_zero(tmp_path):
    original, end = byte_level(tmp_path / "tokenizer.json")
    ours = pretrained_tokenizer(str(tmp_path))
    assert ours.token_to_id("<|endoftext|>") == 0
    assert ours.token_to_id(original.id_to_token(0)) == end
    assert vocabulary_size(ours) == original.get_vocab_size()
    text = "!The people, né <united>"
    original.no_truncation()
    before = original.encode(text, add_special_tokens=False).ids
    trade = {0: end, end: 0}
    assert 0 in before  # "!" had it
    (ids,) = encode(ours, [text])
    assert ids.tolist() == [trade.get(i, i) for i in before] + [0]
    assert ours.decode(ids.tolist()) == text


def test_the_file_it_writes_holds_the_trade(tmp_path):
    byte_level(tmp_path / "tokenizer.json")
    ours = pretrained_tokenizer(str(tmp_path / "tokenizer.json"))
    ours.save(str(tmp_path / "again.json"))
    again = pretrained_tokenizer(str(tmp_path / "again.json"))
    assert again.encode(TEXT).ids == ours.encode(TEXT).ids
    assert again.to_str() == ours.to_str()


def test_bytes_are_exact_also_of_tokens_added_later(tmp_path):
    byte_level(tmp_path / "tokenizer.json", extra=["   "])
    ours = pretrained_tokenizer(str(tmp_path))
    text = "in order   to é"
    (ids,) = encode(ours, [text])
    assert ours.token_to_id("   ") in ids
    assert token_lengths(ours)[ids].sum() == len(text.encode())


def test_one_of_ours_stays_as_it_is(tmp_path):
    ours = train_tokenizer([TEXT], 290)
    ours.save(str(tmp_path / "tokenizer.json"))
    assert pretrained_tokenizer(str(tmp_path)).get_vocab() == ours.get_vocab()


def test_unigram_pieces_keep_their_segmentation_and_their_unknown(tmp_path):
    original = pieces(tmp_path / "tokenizer.json")
    ours = pretrained_tokenizer(str(tmp_path))
    assert [ours.token_to_id(t) for t in ("</s>", "<pad>", "<unk>")] == [0, 1, 2]
    text = "the people é 中 form"
    assert ours.encode(text).tokens == original.encode(text).tokens
    (ids,) = encode(ours, ["people </s> form"])
    assert np.flatnonzero(ids == 0).tolist() == [len(ids) - 1]
    assert token_lengths(ours)[ours.encode("people").ids].sum() == len(" people")


def test_a_long_document_is_encoded_as_in_one_piece(tmp_path):
    original = pieces(tmp_path / "tokenizer.json")
    ours = pretrained_tokenizer(str(tmp_path))
    text = TEXT * 800  # more than a tokenizer trained here would get at once
    (ids,) = encode(ours, [text])
    assert len(ids) == len(original.encode(text).ids) + 1


@pytest.mark.parametrize(
    ("name", "end", "fault"),
    [
        ("none.json", None, "none.json does not exist"),
        ("a/b/c", None, "a/b/c does not exist"),
        ("folder", None, "folder holds no tokenizer.json"),
        ("broken.json", None, "broken.json is not a tokenizer in the format"),
        ("other.json", None, "other.json is not a tokenizer in the format"),
        ("good.json", "<x>", "has no token <x> .* name one by --end_of_text, such as <end>"),
        ("good.json", None, "has none of <.endoftext.>, .* such as <end>"),
        ("nobody/nothing", None, "no local file and cannot be had .* without network give the path"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, name, end, fault):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.json").write_text('{"model": ')
    (tmp_path / "other.json").write_text(json.dumps({"vocab_size": 3}))
    byte_level(tmp_path / "good.json", "<end>")
    with pytest.raises(InputError, match=fault) as caught:
        pretrained_tokenizer(name, end)
    assert "\n" not in str(caught.value)


def test_the_end_may_be_named(tmp_path):
    byte_level(tmp_path / "tokenizer.json", "<end>")
    assert pretrained_tokenizer(str(tmp_path), "<end>").token_to_id("<end>") == 0


def test_one_that_would_take_a_text_for_its_end_is_refused(tmp_path):
    byte_level(tmp_path / "tokenizer.json")
    with pytest.raises(InputError, match="reads he in a text as the end of it"):
        pretrained_tokenizer(str(tmp_path), "he")
