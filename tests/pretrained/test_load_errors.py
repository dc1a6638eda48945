"""What is wrong with a checkpoint is one line that says so."""

import json
import pickle

import pytest
import torch
from tests.pretrained.folders import change_config, change_tensor, header_length, saved
from tokenizers import Tokenizer, models

from rankbound import InputError
from rankbound.pretrained import hub
from rankbound.pretrained.families import UnsupportedError
from rankbound.pretrained.load import load_pretrained

pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path):
    saved("gpt_neox", tmp_path / "model")
    return tmp_path / "model"


def refusal(folder, error=InputError) -> str:
    with pytest.raises(error) as caught:
        load_pretrained(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def poison(tensors):
    tensors["embed_out.weight"][3, 3] = torch.nan


def narrow(tensors):
    tensors["embed_out.weight"] = tensors["embed_out.weight"][:, :30].clone()


def quantise(tensors):
    tensors["embed_out.weight"] = tensors["embed_out.weight"].to(torch.int8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poison, "embed_out.weight holds NaN or infinite"),
        (narrow, r"embed_out.weight is (60, 30), its config.json makes it (60, 32)"),
        (quantise, "embed_out.weight is torch.int8: quantised"),
        (lambda t: t.pop("embed_out.weight"), "lacks 1 of 28 tensors, such as embed_out.weight"),
        (lambda t: t.update(extra=torch.ones(2)), "extra has no place"),
    ],
)
def test_wrong_tensors(folder, change, message):
    change_tensor(folder / "model.safetensors", change)
    assert message in refusal(folder)


def test_cut_short(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for length in (4, header_length(path) // 2, len(whole) - 100):
        path.write_bytes(whole[:length])
        assert "model.safetensors is cut short or no safetensors file" in refusal(folder)
    path.write_bytes(whole[:20] + b"\xff\x00" + whole[22:])
    assert "is cut short or no safetensors file" in refusal(folder)
    path.unlink()
    assert "holds no weights: neither model.safetensors nor pytorch_model.bin" in refusal(folder)


def test_a_missing_shard(tmp_path):
    saved("llama", tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    gone = sorted(set(index["weight_map"].values()))[1]
    (tmp_path / gone).unlink()
    assert f"such as {gone}: download it again" in refusal(tmp_path)
    index["weight_map"]["lm_head.weight"] = "../elsewhere.safetensors"
    for wrong in (index, {"weight_map": {"a": 1}}, {"weight_map": ["a"]}, {}):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(wrong))
        assert "lists no files of its own folder" in refusal(tmp_path)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


@pytest.mark.filterwarnings("error")  # a second line on the terminal
def test_pickled_code_is_not_run(folder):
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save({"embed_out.weight": Evil()}, path)
    assert "no file of weights alone" in refusal(folder)
    path.write_bytes(pickle.dumps(Evil()))
    assert "pytorch_model.bin" in refusal(folder)
    path.write_bytes(b"")
    assert "is cut short" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "its model_type is mamba; it holds gemma, gemma2, gpt2, gpt_neox, llama"),
        ({"quantization_config": {"bits": 4}}, "its weights are quantised"),
        ({"hidden_act": "tanh"}, "activation tanh is not one of gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "type yarn"),
        ({"rope_parameters": {"partial_rotary_factor": 0.4}}, "0.4 of 8 rotary dimensions"),
    ],
)
def test_what_the_body_does_not_hold_names_the_other_way(folder, changes, message):
    change_config(folder, **changes)
    said = refusal(folder, UnsupportedError)
    assert message in said
    assert "`rankbound diagnose` measures any other causal model" in said


def test_wrong_configs(folder):
    change_config(folder, hidden_size="wide")
    assert "a value of the wrong kind: hidden_size is 'wide'" in refusal(folder)
    change_config(folder, hidden_size=64)
    assert "is (60, 32), its config.json makes it (60, 64)" in refusal(folder)
    change_config(folder, hidden_size=32, num_hidden_layers=0)
    assert "num_hidden_layers is 0; it must be at least 1" in refusal(folder)
    change_config(folder, num_hidden_layers=2, num_attention_heads=0)
    assert "a value of the wrong kind: num_attention_heads is 0" in refusal(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "config.json lacks num_attention_heads" in refusal(folder)
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in refusal(folder)


def test_configs_that_name_nothing_that_can_be(folder):
    change_config(folder, eos_token_id="<end>")
    assert "must be whole numbers" in refusal(folder)
    change_config(folder, eos_token_id=None, vocab_size=10**15)
    assert "a model of the sizes in its config.json does not fit into memory" in refusal(folder)
    change_config(folder, model_type=None)
    assert refusal(folder) == f"{folder}: its config.json names no model_type"


def test_the_name_is_said_once(folder):
    (folder / "model.safetensors").unlink()
    assert refusal(folder).count(str(folder)) == 1


def test_a_tokenizer_of_another_model(folder):
    words = {f"w{i}": i for i in range(61)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    assert "the tokenizer has ids up to 60, the model an embedding of 60" in refusal(folder)
    (folder / "tokenizer.json").write_text("{}")
    assert "tokenizer.json is not a tokenizer" in refusal(folder)


def test_paths_that_are_no_model(tmp_path):
    assert "does not exist, and it is no Hugging Face id" in refusal(tmp_path / "nothing")
    assert "holds no model: neither config.yaml (a run) nor config.json" in refusal(tmp_path)
    (tmp_path / "text.bin").write_text("no numbers, only words")
    assert "neither a checkpoint of a run nor a llama2.c binary" in refusal(tmp_path / "text.bin")
    (tmp_path / "last.ckpt").touch()
    assert "last.ckpt is in no run folder" in refusal(tmp_path / "last.ckpt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="a folder without revisions"):
        load_pretrained(str(tmp_path), "step1000")


def hub_error(name):
    import huggingface_hub.errors as errors

    kind = getattr(errors, name)
    return kind.__new__(kind, "no")  # without what it wants of an HTTP library


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GatedRepoError", "asks for access"),
        ("RevisionNotFoundError", "a/b has no revision step7 on the Hugging Face hub"),
        ("RepositoryNotFoundError", "nor a model on the Hugging Face hub"),
        ("LocalEntryNotFoundError", "the Hugging Face hub cannot be reached"),
        ("HfHubHTTPError", "could not be loaded from the Hugging Face hub"),
    ],
)
def test_what_the_hub_can_say(monkeypatch, name, message):
    import huggingface_hub

    def fails(*args, **kwargs):
        raise hub_error(name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(InputError, match=message):
        load_pretrained("a/b", "step7")


def test_a_damaged_download_is_removed_and_a_whole_one_read(folder, tmp_path, monkeypatch):
    """The cache's own layout: a snapshot of links to blobs that are named by their sha256."""
    import huggingface_hub

    from rankbound.corpora.corpus import file_sha256

    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir(), snapshot.mkdir()
    weights = folder / "model.safetensors"
    blob = blobs / file_sha256(weights)
    (snapshot / "config.json").write_bytes((folder / "config.json").read_bytes())
    (snapshot / "model.safetensors").symlink_to(blob)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: str(snapshot))
    content = bytearray(weights.read_bytes())
    blob.write_bytes(content)
    assert load_pretrained("a/b", "main").name == "a/b@main"
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(InputError, match="damaged in the local cache and is removed"):
        hub.download("a/b")
    assert not blob.exists()
    with pytest.raises(InputError, match="holds no weights"):  # without network the link stays
        load_pretrained("a/b")
    named_by_git = blobs / "257cc5642cb1a054f08cc83f2d943e56fd3ebe99"  # git hash-object
    named_by_git.write_text("foo\n")
    (snapshot / "tokenizer_config.json").symlink_to(named_by_git)
    hub.download("a/b")
    named_by_git.write_text("fo")
    with pytest.raises(InputError, match=r"tokenizer_config.json of a/b was damaged"):
        hub.download("a/b")
    assert not named_by_git.exists()


def test_without_network_it_is_one_line(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "rankbound-no/such" in refusal("rankbound-no/such")
