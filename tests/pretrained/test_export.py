"""A run goes out, is the same elsewhere, and comes back."""

import json
import os
import re
import shutil

import pytest
import torch
import yaml

from rankbound import InputError, load_run
from rankbound.cli import main
from rankbound.pretrained.card import model_card
from rankbound.pretrained.export import export
from rankbound.pretrained.load import load_pretrained

transformers = pytest.importorskip("transformers")

SMALL = [
    *("--data.window", 16, "--data.batch_size", 4, "--data.valid_windows", 12),
    *("--model.total_steps", 20, "--model.optimizer.learning_rate", 0.02, "--model.compile", "never"),
    *("--checkpoints.every", 10, "--recorder.probe_windows", 4, "--trainer.accelerator", "cpu"),
]
BODY = ("--model.hidden_size", 16, "--model.num_attention_heads", 2, "--model.num_hidden_layers", 1)
MIXTURE = ("--model.head", "MixtureOfSoftmaxes", "--model.head.components", 2)


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """A run with a linear head and one with a mixture."""
    folder = tmp_path_factory.mktemp("runs")
    rankbound("fit", "--data.corpus", corpus, *SMALL, *BODY, "--run_dir", folder / "linear")
    rankbound("fit", "--data.corpus", corpus, *SMALL, *BODY, *MIXTURE, "--run_dir", folder / "mixture")
    return folder


def rankbound(*args):
    main([str(arg) for arg in args])


def tokens(model, length=24):
    size = model.body.embedding.num_embeddings
    return torch.randint(0, size, (3, length), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def greedy(pretrained, prompt, number):
    ids, cache, new = list(prompt), pretrained.model.body.cache(), list(prompt)
    for _ in range(number):
        hidden = pretrained.model.body(torch.tensor([new]), cache)
        new = [int(pretrained.model.head.log_prob(hidden[:, -1]).argmax())]
        ids += new
    return ids


@pytest.mark.slow
def test_a_run_in_transformers_and_back(runs, tmp_path):
    found = load_pretrained(str(runs / "linear"))
    folder = export(str(runs / "linear"), tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert isinstance(theirs, transformers.GPTNeoXForCausalLM)
    some = tokens(found.model)
    with torch.no_grad():
        ours = found.model(some)
        assert torch.allclose(ours, theirs(some).logits.log_softmax(-1), atol=1e-4)
    text = "badomer nonlu kiba"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text)["input_ids"]
    assert ids == found.tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id == found.end_of_text == 0
    with torch.no_grad():
        said = theirs.generate(
            torch.tensor([ids]), max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    assert said[0].tolist() == greedy(found, ids, 30)
    back = load_pretrained(str(folder))
    with torch.no_grad():
        assert torch.equal(back.model(some), ours)
    assert (back.context, back.end_of_text, back.stops) == (16, 0, (0,))
    assert back.tokenizer.to_str() == found.tokenizer.to_str()


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "mixture"])
def test_training_goes_on_where_the_exported_model_was(head, runs, corpus, tmp_path, capsys):
    folder, on = export(str(runs / head), tmp_path / "out"), tmp_path / "on"
    settings = ["--config", folder / "training.yaml", "--data.corpus", corpus, *SMALL]
    settings += ["--model.optimizer.learning_rate", 0.004, "--checkpoints.keep_recorded", "true"]
    rankbound("fit", *settings, "--init_weights", folder, "--run_dir", on)
    capsys.readouterr()
    before = load_run(runs / head).summary
    rankbound("validate", "--config", on / "config.yaml", "--ckpt_path", on / "step=0.ckpt")
    shown = re.search(r"valid/loss\s+│\s+([\d.]+)", capsys.readouterr().out)
    assert float(shown[1]) == pytest.approx(before["valid/loss"], rel=1e-6)
    start, source = load_pretrained(str(on), "step0").model, load_pretrained(str(runs / head)).model
    for name, value in start.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]), name
    after = load_run(on).summary
    assert after["valid/loss"] < before["valid/loss"]
    assert f"| Started from the weights of | {folder} |" in model_card(load_pretrained(str(on)), True)
    again, from_run = tmp_path / "again", tmp_path / "from_run"
    rankbound("fit", *settings, "--init_weights", runs / head / "last.ckpt", "--run_dir", from_run)
    assert load_run(from_run).series("train/loss").equals(load_run(on).series("train/loss"))
    (folder / "model.safetensors").write_bytes(  # a run that is resumed needs it no more
        (export(str(runs / head), tmp_path / "early", "step10") / "model.safetensors").read_bytes()
    )
    shutil.copytree(on, again)
    rankbound("fit", "--config", on / "config.yaml", "--ckpt_path", again / "step=16.ckpt")
    assert load_run(again).summary["valid/loss"] == after["valid/loss"]
    with pytest.raises(SystemExit):
        rankbound("fit", "--config", on / "config.yaml", "--run_dir", tmp_path / "other")
    assert "no longer holds the weights that the config was recorded with" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_mixture_goes_out_as_it_is(runs, tmp_path, monkeypatch):
    found = load_pretrained(str(runs / "mixture"))
    folder = export(str(runs / "mixture"), tmp_path / "out")
    back = load_pretrained(str(folder))
    some = tokens(found.model)
    with torch.no_grad():
        assert torch.equal(back.model(some), found.model(some))
    assert (back.context, back.end_of_text) == (16, 0)
    loaded: dict = {"__file__": str(folder / "load.py"), "__name__": "load"}
    exec((folder / "load.py").read_text(), loaded)  # what a reader of the folder would run
    with torch.no_grad():
        assert torch.equal(loaded["model"](some), found.model(some))
    again = load_pretrained(str(export(back, tmp_path / "again")))
    with torch.no_grad():
        assert torch.equal(again.model(some), found.model(some))


@pytest.mark.slow
def test_steps_of_a_run_are_revisions(runs):
    last, early = load_pretrained(str(runs / "linear")), load_pretrained(str(runs / "linear"), "step10")
    assert (last.name, early.name) == ("linear", "linear@step10")
    file = load_pretrained(str(runs / "linear" / "step=10.ckpt"))
    some = tokens(last.model)
    with torch.no_grad():
        assert torch.equal(early.model(some), file.model(some))
        assert not torch.equal(early.model(some), last.model(some))
    with pytest.raises(InputError, match=r"no .*step=9.ckpt; checkpoints of the run: last.ckpt, step=10"):
        load_pretrained(str(runs / "linear"), "step9")


@pytest.mark.slow
def test_the_card_has_the_run_s_figures(runs, tmp_path):
    summary = json.loads((runs / "linear" / "summary.json").read_text())
    card = (export(str(runs / "linear"), tmp_path / "last") / "README.md").read_text()
    assert f"| Validation loss, nats per token | {summary['valid/loss']:.4f} |" in card
    assert "| Training tokens | 1,280 |" in card
    early = export(str(runs / "linear"), tmp_path / "early", "step10")
    assert "| Training tokens | 640 |" in (early / "README.md").read_text()
    settings = yaml.safe_load((early / "training.yaml").read_text())
    assert settings["model"]["hidden_size"] == 16


@pytest.mark.slow
def test_a_corpus_that_is_gone_or_another(runs, tmp_path, corpus):
    run = shutil.copytree(runs / "linear", tmp_path / "run")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(corpus), str(tmp_path / "gone")))
    assert load_pretrained(str(run)).tokenizer is None
    other = shutil.copytree(corpus, tmp_path / "gone")
    card = json.loads((other / "corpus.json").read_text())
    (other / "corpus.json").write_text(json.dumps(card | {"corpus_sha256": "0" * 64}))
    with pytest.raises(InputError, match="no longer the corpus"):
        load_pretrained(str(run))


@pytest.mark.slow
def test_nothing_is_overwritten_or_left_half(runs, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="exists already"):
        export(str(runs / "linear"), tmp_path / "mine")

    def full(*args, **kwargs):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(InputError, match=r"cannot write .*out: No space left"):
        export(str(runs / "linear"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_a_config_makes_no_class_but_heads(runs, tmp_path):
    folder = export(str(runs / "mixture"), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    config["model"]["head"] = {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"subprocess.Popen is not one of rankbound.heads"):
        load_pretrained(str(folder))
