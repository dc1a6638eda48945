"""Models that `GPT` does not hold, by their states and output matrix."""

import pytest
import torch
from tests.pretrained.folders import SIZES, change_config, change_tensor, random_model

from rankbound import InputError
from rankbound.pretrained.foreign import load_foreign

transformers = pytest.importorskip("transformers")

TOKENS = torch.randint(0, 60, (2, 30), generator=torch.Generator().manual_seed(0))
GEMMA2 = SIZES | {"head_dim": 16, "num_key_value_heads": 2, "final_logit_softcapping": 5.0}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("PhiConfig", SIZES),  # a head with a bias
        ("GraniteConfig", SIZES | {"logits_scaling": 8.0}),
        ("Gemma2Config", GEMMA2),
    ],
)
def test_states_and_matrix_make_its_logits(kind, settings, tmp_path):
    theirs = random_model(kind, settings)
    theirs.save_pretrained(tmp_path)
    found = load_foreign(str(tmp_path))
    with torch.no_grad():
        said = theirs(TOKENS, output_hidden_states=True)
    hidden = found.hidden(TOKENS)
    assert hidden.shape == (2, 30, 32)
    assert torch.allclose(found.logits(hidden), said.logits, atol=1e-4)
    layers = found.layers(TOKENS)
    assert list(layers) == ["0", "1", "2", "head_input"]
    assert torch.allclose(layers["1"], said.hidden_states[1], atol=1e-5)
    assert (found.context, found.end_of_text, found.tokenizer) == (64, 1, None)


def test_a_model_without_a_linear_head_is_refused(tmp_path, monkeypatch):
    theirs = random_model("PhiConfig", SIZES)
    theirs.save_pretrained(tmp_path)
    forward = transformers.PhiForCausalLM.forward

    def bent(self, *args, **kwargs):
        said = forward(self, *args, **kwargs)
        said.logits = said.logits.square()
        return said

    monkeypatch.setattr(transformers.PhiForCausalLM, "forward", bent)
    with pytest.raises(InputError, match="not a linear map of its states"):
        load_foreign(str(tmp_path))


def test_what_is_wrong_is_one_line(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_foreign(str(tmp_path / "nothing"))
    random_model("PhiConfig", SIZES).save_pretrained(tmp_path)
    change_tensor(tmp_path / "model.safetensors", lambda t: t["lm_head.weight"].fill_(torch.inf))
    with pytest.raises(InputError, match=r"lm_head.weight holds NaN or infinite"):
        load_foreign(str(tmp_path))
    change_tensor(tmp_path / "model.safetensors", lambda t: t.pop("lm_head.weight"))
    with pytest.raises(InputError, match=r"lacks 1 tensors, such as lm_head.weight"):
        load_foreign(str(tmp_path))


def test_code_that_comes_with_a_checkpoint_is_not_run(tmp_path):
    random_model("PhiConfig", SIZES).save_pretrained(tmp_path)
    (tmp_path / "own.py").write_text("raise SystemExit('code was run')")
    change_config(tmp_path, model_type="own", auto_map={"AutoModelForCausalLM": "own.Model"})
    with pytest.raises(InputError, match="code that comes with a checkpoint is not run"):
        load_foreign(str(tmp_path))


def test_a_model_that_sees_later_tokens_is_refused(tmp_path, capfd):
    import transformers.utils.logging as logging

    sizes = SIZES | {"is_decoder": False}
    random_model("BertConfig", sizes).save_pretrained(tmp_path)
    capfd.readouterr()
    logging.set_verbosity_warning()
    with pytest.raises(InputError, match="sees the tokens that follow"):
        load_foreign(str(tmp_path))
    assert capfd.readouterr().err == ""  # the line above is the only one
