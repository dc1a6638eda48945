"""Where texts begin, where continuations begin, and text that appears token by token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pretrained.small import TEXT, text_model

OWN = text_model()


def test_a_text_begins_after_the_end_of_text_and_all_of_it_is_scored():
    ids = OWN.tokenizer.encode("the cat").ids
    (piece,) = OWN.documents(["the cat"])
    assert piece.ids == [0, *ids]
    assert piece.scored_from == 1


def test_without_an_end_of_text_the_first_token_is_not_scored():
    own = text_model(end_of_text=None)
    (piece,) = own.documents(["the cat"])
    assert piece.ids == own.tokenizer.encode("the cat").ids
    assert piece.scored_from == 1


def test_a_continuation_is_scored_from_where_the_whole_differs():
    (piece,) = OWN.continuations([("the cat", " sat")])
    whole, context = OWN.tokenizer.encode("the cat sat").ids, OWN.tokenizer.encode("the cat").ids
    assert whole[: len(context)] == context  # words are tokens of their own here
    assert piece.ids == [0, *whole]
    assert piece.scored_from == 1 + len(context)


def test_a_token_across_the_border_is_the_continuations():
    whole = OWN.tokenizer.encode("the cat sat").ids
    (piece,) = OWN.continuations([("the c", "at sat")])
    cut = OWN.tokenizer.encode("the c").ids
    assert whole[: len(cut)] != cut  # " cat" is one token, " c" another
    assert OWN.decode(piece.ids[1 : piece.scored_from]) == "the"
    assert piece.ids[1:] == whole


def test_an_empty_context_and_an_empty_prefix_score_at_least_a_token():
    (piece,) = OWN.continuations([("", "the cat")])
    assert piece.scored_from == 1
    (bare,) = text_model(end_of_text=None).continuations([("", "the cat")])
    assert bare.scored_from == 1


def streamed(own, ids, before=()):
    from rankbound.pretrained.texts import Stream

    stream = Stream(own, before)
    return [*(stream.add(i) for i in ids), stream.rest()]


@settings(max_examples=60)
@given(st.text(max_size=30), st.text(max_size=8))
def test_pieces_join_to_the_text_and_break_no_character(text, prompt):
    ids, before = (OWN.tokenizer.encode(t).ids for t in (text, prompt))
    pieces = streamed(OWN, ids, before)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


def test_a_character_of_several_tokens_appears_whole():
    ids = OWN.tokenizer.encode("鱼").ids
    assert len(ids) == 3
    assert streamed(OWN, ids) == ["", "", "鱼", ""]


def test_bytes_that_are_no_character_do_not_hold_the_stream_up():
    lone = OWN.tokenizer.encode("鱼").ids[0]
    the = OWN.tokenizer.encode("the").ids
    assert streamed(OWN, [lone, *the])[1].endswith("the")
    assert len("".join(streamed(OWN, [lone] * 40)[:20])) > 10
    assert streamed(OWN, [lone])[-1] == "\ufffd"


def test_a_tokenizer_that_marks_words_keeps_its_spaces():
    from dataclasses import replace

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    words = Tokenizer(models.Unigram())
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=["<unk>"], unk_token="<unk>")
    words.train_from_iterator([TEXT] * 20, trainer)
    own = replace(OWN, tokenizer=words)
    ids = words.encode("the cat sat on").ids
    assert "".join(streamed(own, ids)) == "the cat sat on"
    assert "".join(streamed(own, ids[-3:], ids[:-3])) == own.decode(ids)[len(own.decode(ids[:-3])) :]


def test_a_model_without_a_tokenizer_says_so():
    from types import SimpleNamespace

    from rankbound.errors import InputError
    from rankbound.pretrained.texts import TextModel

    with pytest.raises(InputError, match="folder comes without a tokenizer"):
        TextModel.of(SimpleNamespace(tokenizer=None, name="folder"))
