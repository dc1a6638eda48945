"""Every family against `transformers` on random checkpoints, in and out."""

import json

import pytest
import torch
from tests.pretrained.folders import CONFIGS, change_config, change_tensor, log_prob, saved

from rankbound.pretrained.export import export
from rankbound.pretrained.families import Architecture, all_families, family_of, fitting_family
from rankbound.pretrained.load import load_pretrained

transformers = pytest.importorskip("transformers")

TOKENS = torch.randint(0, 60, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CONFIGS)
def test_it_says_what_transformers_says_and_comes_back_from_an_export(name, tmp_path):
    theirs = saved(name, tmp_path / "in")
    ours = load_pretrained(str(tmp_path / "in"))
    expected = log_prob(theirs, TOKENS)
    assert expected.std() > 0.3  # there is something to agree on
    with torch.no_grad():
        assert torch.allclose(ours.model(TOKENS), expected, atol=1e-4)
    again = transformers.AutoModelForCausalLM.from_pretrained(export(ours, tmp_path / "out"))
    assert torch.allclose(log_prob(again, TOKENS), expected, atol=1e-4)
    assert again.config.model_type == theirs.config.model_type.replace("mistral", "llama")


def test_every_family_is_tried_here():
    names = {family_of({"model_type": name}) for name in all_families()}
    tried = {getattr(transformers, kind).model_type for kind, _ in CONFIGS.values()}
    assert tried == set(all_families())
    assert len(names) == len(tried) - 1


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "llama"])
def test_a_body_saved_without_its_prefix(name, tmp_path):
    theirs = saved(name, tmp_path)
    prefix = family_of(json.loads((tmp_path / "config.json").read_text())).prefix

    def shorten(tensors):
        for key in [key for key in tensors if key.startswith(prefix)]:
            tensors[key.removeprefix(prefix)] = tensors.pop(key)

    change_tensor(tmp_path / "model.safetensors", shorten)
    with torch.no_grad():
        ours = load_pretrained(str(tmp_path)).model(TOKENS)
    assert torch.allclose(ours, log_prob(theirs, TOKENS), atol=1e-4)


def test_the_old_spelling_of_rotary_settings(tmp_path):
    theirs = saved("llama 3", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    theta = rope.pop("rope_theta")
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_scaling": rope, "rope_theta": theta}))
    with torch.no_grad():
        ours = load_pretrained(str(tmp_path)).model(TOKENS)
    assert torch.allclose(ours, log_prob(theirs, TOKENS), atol=1e-4)


def test_sharded_and_pickled_weights(tmp_path):
    theirs = saved("llama", tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    (tmp_path / "bin").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    theirs.config.save_pretrained(tmp_path / "bin")
    for folder in ("shards", "bin"):
        with torch.no_grad():
            ours = load_pretrained(str(tmp_path / folder)).model(TOKENS)
        assert torch.allclose(ours, log_prob(theirs, TOKENS), atol=1e-4)


def test_halved_weights_are_widened_or_kept(tmp_path):
    kept = saved("gpt_neox", tmp_path / "full").to(torch.bfloat16)
    kept.save_pretrained(tmp_path / "half")
    wide = load_pretrained(str(tmp_path / "half"))
    assert {p.dtype for p in wide.model.parameters()} == {torch.float32}
    with torch.no_grad():
        assert torch.allclose(wide.model(TOKENS), log_prob(kept.float(), TOKENS), atol=1e-4)
    half = load_pretrained(str(tmp_path / "half"), dtype="bfloat16")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert half.model.body.cos.dtype == torch.float32
    with torch.no_grad():
        assert torch.allclose(half.model(TOKENS), wide.model(TOKENS), atol=0.3)


def test_what_a_checkpoint_says_of_itself(tmp_path):
    saved("mistral", tmp_path)
    found = load_pretrained(str(tmp_path))
    assert (found.context, found.end_of_text, found.stops) == (40, 1, (2,))
    assert found.tokenizer is None
    assert not found.model.training
    change_config(tmp_path, bos_token_id=None, eos_token_id=[5, 6])
    found = load_pretrained(str(tmp_path))
    assert (found.end_of_text, found.stops) == (5, (5, 6))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "gpt_neox"),
        ({"norm": "rmsnorm"}, None),
        ({"qk_norm": True}, None),
        ({"dropout": 0.1, "init": "gpt2"}, "gpt_neox"),
        ({"num_attention_heads": 16}, "gpt_neox"),  # a quarter of four dimensions is rounded up to two
        ({"rotary_pct": 0.0, "position_embeddings": "learned", "parallel_residual": False}, "gpt2"),
        (
            {
                "norm": "rmsnorm",
                "activation": "swiglu",
                "parallel_residual": False,
                "use_bias": False,
                "rotary_pct": 1.0,
            },
            "llama",
        ),
    ],
)
def test_a_body_goes_where_it_fits_exactly(body, expected):
    found = fitting_family(Architecture({"vocab_size": 50, **body}))
    assert (found[1]["model_type"] if found else None) == expected


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_a_llama_that_rotates_a_part_of_its_heads_is_nowhere_in_transformers(share):
    body = {"norm": "rmsnorm", "activation": "swiglu", "parallel_residual": False, "use_bias": False}
    assert fitting_family(Architecture({"vocab_size": 50, **body, "rotary_pct": share})) is None


def test_heads_that_no_family_has_fit_none():
    assert fitting_family(Architecture({"vocab_size": 50}, bias=True)) is None
    assert fitting_family(Architecture({"vocab_size": 50}, soft_cap=30.0)) is None
