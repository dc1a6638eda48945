"""Diagnosis of small random checkpoints, against independent computations of its parts."""

import json
import math
from pathlib import Path

import pytest
import torch
from tests.pretrained.folders import SIZES, change_tensor, random_model
from tests.pretrained.small import TEXT, tokenizer

from rankbound import InputError
from rankbound.corpora.sources import Reading
from rankbound.pretrained.diagnose import diagnose
from rankbound.pretrained.subject import load_subject
from rankbound.pretrained.suite import cached_commits, diagnose_suite, remove_commit
from rankbound.pretrained.text_windows import windows_of

SETTINGS = SIZES | {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 0}


def save(folder, kind="GPTNeoXConfig", seed=0, **settings):
    model = random_model(kind, SETTINGS | settings, seed)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.3)
    model.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return model


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    words = TEXT.split()
    for i in range(24):
        (folder / f"{i:02}.txt").write_text(" ".join(words[i % 5 :] * (2 + i % 3)))
    return str(folder)


@pytest.fixture(scope="module")
def neox(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neox")
    save(folder)
    return folder


def measured(model, text, output, **how):
    settings = {"tokens": 900, "window": 32, "probe": False, "argmax_seconds": 1.0, "output": output}
    return diagnose(str(model), text, **(settings | how))[0]


def test_parts_are_those_of_the_model(neox, text, tmp_path):
    found = measured(neox, text, tmp_path / "d.html")
    subject = load_subject(str(neox))
    read = windows_of(subject, text, 900, 32)
    with torch.no_grad():
        log_prob = subject.model(read.tokens).log_softmax(-1)
        hidden = subject.model.body(read.tokens).flatten(0, 1).double()
    nats = -log_prob.gather(2, read.targets[..., None])
    assert found.loss.mean == pytest.approx(float(nats.mean()), rel=1e-5)
    values = torch.linalg.svdvals(subject.model.head.weight.double())
    assert torch.tensor(found.spectrum) == pytest.approx(values.tolist(), rel=1e-6)
    assert found.tokens == read.size == 28 * 32
    assert found.layers == ["0", "1", "2", "head_input"]
    unit = torch.nn.functional.normalize(hidden.view(28, 32, -1)[:, 1:].flatten(0, 1))
    count = len(unit)
    cosine = float((unit.sum(0).square().sum() - count) / (count * (count - 1)))
    assert found.figures["hidden/head_input/anisotropy"] == pytest.approx(cosine, abs=1e-5)
    assert found.figures["unargmaxable/argmaxable"] <= 320
    assert found.cuts.cuts[-1].lost.mean == 0
    assert found.headroom is None
    assert "loses" in found.verdict()
    saved = json.loads((tmp_path / "d.json").read_text())
    assert saved["verdict"] == found.verdict()
    assert saved["cuts"]["knee"] == found.cuts.knee


def test_states_made_again_give_the_same_cuts(neox, text, tmp_path):
    kept = measured(neox, text, tmp_path / "d.html")
    made = measured(neox, text, tmp_path / "d.html", disk_gib=0.0)
    assert any("computed again" in note for note in made.notes)
    assert made.loss.mean == pytest.approx(kept.loss.mean)
    for a, b in zip(kept.cuts.cuts, made.cuts.cuts, strict=True):
        assert a.lost.mean == pytest.approx(b.lost.mean, abs=2e-3)


def test_a_foreign_model_is_measured_by_its_states(text, tmp_path):
    theirs = save(tmp_path, "Gemma2Config", head_dim=16, num_key_value_heads=2, final_logit_softcapping=5.0)
    save_foreign = tmp_path / "phi"
    save(save_foreign, "PhiConfig")
    found = measured(save_foreign, text, tmp_path / "d.html")
    assert found.cuts is not None
    assert any("states and output matrix" in note for note in found.notes)
    capped = measured(tmp_path, text, tmp_path / "d.html")
    subject = load_subject(str(tmp_path))
    assert subject.readout.soft_cap == 5.0
    read = windows_of(subject, text, 900, 32)
    with torch.no_grad():
        log_prob = theirs(read.tokens).logits.float().log_softmax(-1)
    nats = -log_prob.gather(2, read.targets[..., None]).mean()
    assert capped.loss.mean == pytest.approx(float(nats), rel=1e-4)


def test_the_probe_runs_and_keeps_to_its_words(neox, text, tmp_path, capsys):
    found = measured(neox, text, tmp_path / "d.html", probe=True, minutes=0.05, epochs=1.0)
    assert found.headroom is not None
    assert "cannot tell" in found.verdict()
    assert "The probe takes about" in capsys.readouterr().err


def test_documents_of_targets(neox, text):
    subject = load_subject(str(neox))
    read = windows_of(subject, text, 900, 32)
    stream = torch.cat([read.tokens.flatten()[:1], read.targets.flatten()])
    begins = (stream == 0).cumsum(0)[1:] - 1
    assert torch.equal(read.document, begins - begins[0])
    assert read.units.endswith("documents")


def test_documents_are_cut_where_the_separator_stands(neox, text, tmp_path):
    parts = [path.read_text() for path in sorted(Path(text).iterdir())]
    joined = tmp_path / "joined.txt"
    joined.write_text("<|end|>".join(parts))
    subject = load_subject(str(neox))
    whole = windows_of(subject, text, 900, 32)
    cut = windows_of(subject, str(joined), 900, 32, Reading(document_separator="<|end|>"))
    assert torch.equal(cut.tokens, whole.tokens)
    assert torch.equal(cut.document, whole.document)
    uncut = windows_of(subject, str(joined), 900, 32)
    assert not torch.equal(uncut.tokens, whole.tokens)
    assert not uncut.note  # only the usual separator is known
    joined.write_text("<|endoftext|>".join(parts))
    assert "--document_separator" in windows_of(subject, str(joined), 900, 32).note


def test_bad_input_is_one_line(neox, text, tmp_path):
    cases = [
        ((neox, None), {}, "name one by --corpus"),
        ((neox, text), {"window": 999}, "reads from 2 to 64"),
        ((neox, text), {"tokens": 3}, "at least one window"),
        ((neox, text), {"output": tmp_path / "d.txt"}, "no .html file"),
        ((neox, text), {"document_separator": ""}, "document_separator is empty"),
        ((neox, text), {"minutes": 0.0}, "minutes are 0"),
        ((neox, str(tmp_path / "nothing.txt")), {}, "nothing.txt"),
        ((tmp_path / "none", text), {}, "does not exist"),
    ]
    for (model, corpus), how, message in cases:
        with pytest.raises(InputError, match=message) as wrong:
            measured(model, corpus, **({"output": tmp_path / "d.html"} | how))
        assert "\n" not in str(wrong.value)
    assert not (tmp_path / "d.json").exists()


def test_weights_that_are_not_finite_are_named(text, tmp_path):
    save(tmp_path)

    def spoil(tensors):
        tensors["embed_out.weight"][3, 1] = math.nan

    change_tensor(tmp_path / "model.safetensors", spoil)
    with pytest.raises(InputError, match=r"NaN|not finite"):
        measured(tmp_path, text, tmp_path / "d.html")


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    for step, seed in ((1, 1), (20, 2), (300, 3), (400, 3)):
        save(folder / f"step{step}", seed=seed)
    return folder


def test_a_suite_has_every_checkpoint_and_names_copies(suite, text, tmp_path):
    settings = {"tokens": 900, "window": 32, "output": tmp_path / "s.html"}
    found, _ = diagnose_suite(str(suite), None, text, **settings)
    table = found.table.set_index("revision")
    assert list(table["step"]) == [1, 20, 300, 400]
    assert list(table["copy_of"]) == ["", "", "", "step300"]
    assert "step400 of step300" in found.copies
    assert table["cka"].iloc[-1] == pytest.approx(1, abs=1e-3)
    assert table["cka"].iloc[0] < 0.9
    alone = measured(suite / "step20", text, tmp_path / "d.html")
    assert table.loc["step20", "loss"] == pytest.approx(alone.loss.mean)
    assert table.loc["step20", "retention"] == pytest.approx(alone.figures["retention/relative"])
    entropy = alone.figures["head/weight/singular_entropy"]
    assert table.loc["step20", "singular_entropy"] == pytest.approx(entropy)
    assert (tmp_path / "s.csv").is_file()


def test_a_suite_goes_on_without_a_damaged_checkpoint(suite, text, tmp_path):
    folder = tmp_path / "suite"
    for step in (1, 20, 300):
        save(folder / f"step{step}", seed=step)
    (folder / "step20" / "model.safetensors").write_bytes(b"broken")
    settings = {"tokens": 900, "window": 32, "output": tmp_path / "s.html"}
    found, _ = diagnose_suite(str(folder), None, text, **settings)
    assert list(found.table["revision"]) == ["step1", "step300"]
    assert "Not measured, step20" in found.notes[0]
    with pytest.raises(InputError, match="no checkpoint folder step7"):
        diagnose_suite(str(folder), "step1,step7", text, **settings)
    with pytest.raises(InputError, match="name its --revisions"):
        diagnose_suite("someone/model", None, text, **settings)
    with pytest.raises(InputError, match="two are needed"):
        diagnose_suite(str(folder), "step1", text, **settings)


def test_a_revision_of_the_hub_is_freed_and_shared_files_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--me--small"
    blobs = {"shared": b"tokenizer", "old": b"weights 1", "new": b"weights 2"}
    (repo / "blobs").mkdir(parents=True)
    for name, content in blobs.items():
        (repo / "blobs" / name).write_bytes(content)
    for commit, weights in (("a" * 40, "old"), ("b" * 40, "new")):
        folder = repo / "snapshots" / commit
        folder.mkdir(parents=True)
        for name, blob in (("tokenizer.json", "shared"), ("model.safetensors", weights)):
            (folder / name).symlink_to(repo / "blobs" / blob)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / weights).write_text(commit)
    assert cached_commits("me/small") == {"a" * 40, "b" * 40}
    remove_commit("me/small", "a" * 40)
    assert cached_commits("me/small") == {"b" * 40}
    assert sorted(path.name for path in (repo / "blobs").iterdir()) == ["new", "shared"]
    remove_commit("me/other", "c" * 40)
