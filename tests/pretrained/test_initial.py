"""Weights of a trained model for a run: which rows they go to, and which models do not fit."""

import pytest
import torch
from tests.pretrained.folders import SIZES, random_model
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from rankbound import InputError
from rankbound.corpora import prepare
from rankbound.corpora.generated import open_corpus
from rankbound.heads import Linear, MixtureOfSoftmaxes, SoftCap
from rankbound.model import GPT
from rankbound.pretrained.export import export
from rankbound.pretrained.families.architecture import Architecture
from rankbound.pretrained.initial import start_from
from rankbound.pretrained.load import load_pretrained
from rankbound.pretrained.pretrained import Pretrained
from rankbound.training.language_model import LanguageModel

pytest.importorskip("transformers")

TEXT = "a b c d a c b d e f e a b"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Words are 0 to 9, the end of text 80, of 120 ids: rows without a token follow, as in a padded one."""
    folder = tmp_path_factory.mktemp("model")
    random_model("GPTNeoXConfig", SIZES | {"vocab_size": 120}).save_pretrained(folder)
    rare = [f"rare{i}" for i in range(70)]
    words = {word: i for i, word in enumerate([*"abcdefghi", "<unk>", *rare, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def corpus(model, tmp_path_factory):
    """Text in its tokens; the end of text has traded ids with the first word."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(4):
        (folder / f"{i}.txt").write_text(f"{TEXT} " * 20)
    return prepare(str(folder), 300, folder.parent / "words", tokenizer=str(model), deduplicate=False)


def empty(source, vocab_size, **changes):
    """A model of the source's settings with other weights."""
    found = Architecture.of(load_pretrained(str(source)).model)
    body = {**found.body, "vocab_size": vocab_size, **changes}
    return LanguageModel(GPT(**body), Linear, found.tied).eval()


def test_rows_go_to_the_corpus_s_ids(model, corpus):
    assert (corpus.vocab_size, corpus.tokenizer.token_to_id("<|endoftext|>")) == (81, 0)
    ours, theirs = empty(model, 81), load_pretrained(str(model)).model
    start_from(str(model), ours, corpus)
    here = torch.tensor([[0, *corpus.tokenizer.encode(TEXT).ids]])
    there = torch.tensor([[80, *load_pretrained(str(model)).tokenizer.encode(TEXT).ids]])
    assert not torch.equal(here[:, 1:], there[:, 1:])
    with torch.no_grad():
        # over the tokens that there are: rows of none are left out
        expected = theirs(there)[..., :81].log_softmax(-1)
        found = ours(here)
    assert torch.allclose(found[..., 1:80], expected[..., 1:80], atol=1e-5)
    assert torch.allclose(found[..., 0], expected[..., 80], atol=1e-5)
    assert torch.allclose(found[..., 80], expected[..., 0], atol=1e-5)


def test_loading_draws_none_of_the_run_s_random_numbers(model, corpus, tmp_path):
    ours = empty(model, 81)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    start_from(str(model), ours, corpus)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 16, "head_dim": 4}, "hidden_size 16 (theirs 32), head_dim 4 (theirs 8)"),
        ({"num_hidden_layers": 1}, "num_hidden_layers 1 (theirs 2); take the model's settings"),
        ({"parallel_residual": False}, "parallel_residual False (theirs True)"),
        ({"use_bias": False}, "use_bias False (theirs True)"),
    ],
)
def test_another_body_is_named(changes, message, model, corpus):
    with pytest.raises(InputError) as caught:
        start_from(str(model), empty(model, 81, **changes), corpus)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("head", "tied", "message"),
    [
        (lambda d, v: SoftCap(d, v, cap=9.0), False, "head SoftCap(cap=9) (theirs Linear)"),
        (lambda d, v: Linear(d, v, bias=True), False, "head Linear(bias=True) (theirs Linear)"),
        (MixtureOfSoftmaxes, False, "(theirs Linear)"),
        (Linear, True, "tie_word_embeddings True (theirs False)"),
    ],
)
def test_another_head_is_named(head, tied, message, model, corpus):
    body = GPT(**{**load_pretrained(str(model)).model.body.settings, "vocab_size": 81})
    with pytest.raises(InputError) as caught:
        start_from(str(model), LanguageModel(body, head, tied), corpus)
    assert message in str(caught.value)


def test_what_has_no_weights_may_differ(model, corpus):
    start_from(str(model), empty(model, 81, max_position_embeddings=32, dropout=0.5, init="gpt2"), corpus)


def test_other_tokens_are_refused(model, corpus, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    for i in range(4):
        (text / f"{i}.txt").write_text(f"{i} some other words, in bytes. " * 40)
    other = prepare(str(text), 260, tmp_path / "other", deduplicate=False)
    with pytest.raises(InputError, match=r"other has \d+ tokens that .* does not know, such as"):
        start_from(str(model), empty(model, 260), other)
    top = prepare(str(text), 260, tmp_path / "top", tokens_only_top=20, deduplicate=False)
    with pytest.raises(InputError, match="without --tokens_only_top"):
        start_from(str(model), empty(model, top.vocab_size), top)


def test_a_mixture_s_tokens_stay_in_their_order(model, corpus, tmp_path):
    found = load_pretrained(str(model))
    head = {"class_path": "rankbound.heads.MixtureOfSoftmaxes", "init_args": {"components": 2}}
    body = found.model.body.settings
    mixture = LanguageModel(GPT(**body), lambda d, v: MixtureOfSoftmaxes(d, v, components=2))
    whole = Pretrained(mixture.eval(), found.tokenizer, "m", 64, 80, settings={**body, "head": head})
    folder = export(whole, tmp_path / "out")
    with pytest.raises(InputError, match="only a linear head's rows can be put into another order"):
        start_from(
            str(folder), LanguageModel(GPT(**{**body, "vocab_size": 81}), MixtureOfSoftmaxes), corpus
        )


def test_without_a_tokenizer_sizes_decide(model, corpus, tmp_path):
    folder = tmp_path / "bare"
    random_model("GPTNeoXConfig", SIZES | {"vocab_size": 120}).save_pretrained(folder)
    with pytest.raises(InputError, match=r"vocab_size 81 \(theirs 120\)"):
        start_from(str(folder), empty(folder, 81), open_corpus(corpus.path))
