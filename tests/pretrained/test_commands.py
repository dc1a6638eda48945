"""`evaluate`, `generate` and `trajectories` on a trained run, and on llama-type folders saved here."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from rankbound.corpora import Corpus
from rankbound.errors import InputError
from rankbound.pretrained.evaluate import evaluate
from rankbound.pretrained.generate import generate
from rankbound.pretrained.trajectories import measure
from rankbound.runs import load_run
from rankbound.training.trained import trained_model


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> Path:
    """A mixture trained for 12 steps with checkpoints at 4, 8 and 12."""
    from rankbound.cli import main

    folder = tmp_path_factory.mktemp("runs") / "small"
    settings = [
        *("--data.corpus", corpus, "--data.window", 16, "--data.batch_size", 4, "--data.valid_windows", 4),
        *("--model.hidden_size", 16, "--model.num_attention_heads", 2, "--model.num_hidden_layers", 1),
        *("--model.head", "MixtureOfSoftmaxes", "--model.head.components", 2, "--model.total_steps", 12),
        *("--model.schedule.warmup_steps", 2, "--model.compile", "never", "--recorder.probe_windows", 2),
        *("--checkpoints.every", 4, "--checkpoints.keep_last", 10, "--run_dir", folder),
        *("--trainer.accelerator", "cpu"),
    ]
    main(["fit", *map(str, settings)])
    return folder


def parts_of(run):
    return trained_model(load_run(run)), Corpus(load_run(run).config["data"]["corpus"]).tokenizer


def test_a_run_is_evaluated_by_its_own_model(run, tmp_path, capsys):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"sentence_good": "bado kilu", "sentence_bad": "kilu bado"}) + "\n")
    passages = tmp_path / "passages.jsonl"
    passages.write_text(json.dumps({"text": "bado kilu bado"}) + "\n")
    text = tmp_path / "text.txt"
    text.write_text("bado kilu mermer")
    output = tmp_path / "scores" / "all.csv"
    table = evaluate(
        str(run), blimp=str(pairs), lambada=str(passages), text=str(text), device="cpu", output=output
    )
    model, tokenizer = (
        trained_model(load_run(run)),
        Corpus(load_run(run).config["data"]["corpus"]).tokenizer,
    )

    def whole(words):
        ids = torch.tensor([[0, *tokenizer.encode(words).ids]])
        with torch.no_grad():
            return float(model(ids)[0, :-1].gather(1, ids[0, 1:, None]).sum())

    value = table.set_index(["task", "metric"])["value"]
    expected = whole("bado kilu") - whole("kilu bado")
    assert value["pairs", "difference"] == pytest.approx(expected, abs=1e-3)
    perplexity = math.exp(whole("bado kilu") - whole("bado kilu bado"))
    assert value["LAMBADA", "perplexity"] == pytest.approx(perplexity, rel=1e-3)
    bits = -whole("bado kilu mermer") / math.log(2) / 16
    assert value[str(text), "bits_per_byte"] == pytest.approx(bits, rel=1e-3)
    pd.testing.assert_frame_equal(pd.read_csv(output), table)
    shown = capsys.readouterr().out
    assert "average of 1 paradigms" in shown
    assert "bits_per_byte" in shown


def test_generation_streams_what_the_model_would_draw(run, capsys):
    generate(str(run), "bado", max_tokens=12, greedy=True, device="cpu")
    shown = capsys.readouterr().out
    model, tokenizer = (
        trained_model(load_run(run)),
        Corpus(load_run(run).config["data"]["corpus"]).tokenizer,
    )
    ids = [0, *tokenizer.encode("bado").ids]
    with torch.no_grad():
        for _ in range(12):
            token = int(model(torch.tensor([ids]))[0, -1].argmax())
            if token == 0:
                break
            ids.append(token)
    assert shown == tokenizer.decode(ids[1:]) + "\n"
    generate(str(run), max_tokens=5, seed=1, device="cpu")
    first = capsys.readouterr().out
    generate(str(run), max_tokens=5, seed=1, device="cpu")
    assert capsys.readouterr().out == first
    generate(str(run), max_tokens=5, seed=1, other=str(run), other_revision="step4", device="cpu")
    assert capsys.readouterr().out.endswith("\n")


def test_trajectories_are_the_log_probabilities_of_each_checkpoint(run):
    measured = measure([run], max_tokens=70, device="cpu")
    (found,) = measured.trajectories
    assert found.steps.tolist() == [4, 8, 12]
    assert found.log_prob.shape == (3, 64)
    stream = Corpus(load_run(run).config["data"]["corpus"]).tokens("valid")[:65].astype(np.int64)
    assert measured.tokens.tolist() == stream[1:].tolist()
    for step, values in zip(found.steps, found.log_prob, strict=True):
        inputs = torch.from_numpy(stream[:-1]).view(4, 16)
        with torch.no_grad():
            log_prob = trained_model(load_run(run), f"step={step}.ckpt")(inputs)
        expected = log_prob.gather(2, torch.from_numpy(stream[1:]).view(4, 16, 1)).flatten()
        np.testing.assert_allclose(values, expected, atol=1e-4)
    assert all(measured.texts[i] == "" for i in measured.tokens.tolist() if i == 0)


@pytest.fixture
def suite(tmp_path):
    """Three checkpoints of a random GPT-NeoX, the last a copy of the one before, with a tokenizer."""
    transformers = pytest.importorskip("transformers")
    from tests.pretrained.small import tokenizer

    own = tokenizer()
    config = transformers.GPTNeoXConfig(
        vocab_size=own.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    for seed, step in ((0, 1), (1, 2), (2, 16), (2, 32)):
        torch.manual_seed(seed)
        folder = tmp_path / "suite" / f"step{step}"
        transformers.GPTNeoXForCausalLM(config).save_pretrained(folder)
        own.save(str(folder / "tokenizer.json"))
    return tmp_path / "suite"


def test_scores_of_a_transformers_checkpoint_are_transformers_own(suite, tmp_path):
    from transformers import AutoModelForCausalLM

    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dogs bark.")
    folder = suite / "step16"
    value = evaluate(str(folder), text=str(text), device="cpu").set_index("metric")["value"]
    from rankbound.pretrained.load import load_pretrained

    ids = torch.tensor([[0, *load_pretrained(str(folder)).tokenizer.encode(text.read_text()).ids]])
    with torch.no_grad():
        loss = AutoModelForCausalLM.from_pretrained(folder)(ids, labels=ids).loss
    assert value["nats_per_token"] == pytest.approx(float(loss), abs=1e-4)


def test_a_suite_is_scored_on_the_users_text_and_copies_are_left_out(suite, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dogs bark at them while rain falls. " * 3)
    measured = measure([suite], text=str(text), max_tokens=20, device="cpu")
    (found,) = measured.trajectories
    assert found.steps.tolist() == [1, 2, 16]
    assert measured.copies == ["suite step 32"]
    assert found.log_prob.shape == (3, 20)
    assert "".join(measured.texts[i] for i in measured.tokens.tolist()).startswith("the cat sat")


def test_wrong_input_is_one_line(run, suite, tmp_path):
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate(str(run))
    with pytest.raises(InputError, match="no use without --tasks"):
        evaluate(str(run), blimp="x/y", task_files=tmp_path)
    with pytest.raises(InputError, match=r"no \.csv file"):
        evaluate(str(run), text="x", output=tmp_path / "scores.txt")
    with pytest.raises(InputError, match="different tokenizers"):
        generate(str(run), "bado", other=str(suite / "step16"), device="cpu")
    with pytest.raises(InputError, match="name one by --other"):
        generate(str(run), "bado", other_revision="main", device="cpu")
    with pytest.raises(InputError, match="by --text"):
        measure([suite])
    with pytest.raises(InputError, match="is no run folder and the others are"):
        measure([run, suite], text="x")
    with pytest.raises(InputError, match="leave out text"):
        measure([run], text="x")
    with pytest.raises(InputError, match="holds no checkpoint folders"):
        measure([tmp_path / "none"], text="x")
    with pytest.raises(InputError, match="less than one window"):
        measure([run], max_tokens=7)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device cuda cannot be used here"):
            evaluate(str(run), text=str(tmp_path), device="cuda")
