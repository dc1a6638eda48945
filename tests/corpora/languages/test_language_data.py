"""A language's folder, used as a corpus."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rankbound.corpora.data import TokenData
from rankbound.corpora.generate import generate
from rankbound.corpora.generated import Generated, open_corpus
from rankbound.corpora.languages import KnownRank, SpamLang
from rankbound.corpora.languages.floors import solve_floor
from rankbound.errors import InputError

WINDOW = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("languages") / "known-rank"
    generate(KnownRank(60, 8), path, valid_tokens=2000)
    return path


def module(path, rank=0, world=1, step=0, max_steps=5, **settings):
    """A data module that thinks it runs on one of several devices."""
    data = TokenData(str(path), **{"window": WINDOW, "batch_size": 12, **settings})
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world,
        global_step=step,
        max_steps=max_steps,
        accumulate_grad_batches=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    data.setup("fit")
    return data


def rows(batches):
    return [tuple(row.tolist()) for tokens, _ in batches for row in tokens]


@pytest.mark.parametrize(("world", "micro"), [(1, 4), (2, None), (2, 3), (3, 2), (4, 1)])
def test_a_step_trains_on_the_same_text_however_it_is_shared(folder, world, micro):
    expected = rows(module(folder).train_dataloader())
    assert len(set(expected)) == 60, "no window comes twice"
    ranks = [module(folder, rank, world, micro_batch_size=micro) for rank in range(world)]
    accumulation = ranks[0].accumulation
    loaders = [list(data.train_dataloader()) for data in ranks]
    for step in range(5):
        micros = slice(step * accumulation, (step + 1) * accumulation)
        shared = [row for loader in loaders for row in rows(loader[micros])]
        assert sorted(shared) == sorted(expected[step * 12 : (step + 1) * 12])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_loader_goes_on_where_the_first_would(folder, workers):
    whole = rows(module(folder).train_dataloader())
    data = module(folder, num_workers=workers)
    loader = data.train_dataloader()
    data.trainer.global_step = 3
    assert rows(loader) == whole[3 * 12 :]


def test_targets_follow_and_seeds_change_the_training_text_alone(folder):
    one, other = module(folder, seed=0), module(folder, seed=1)
    tokens, targets = next(iter(one.train_dataloader()))
    assert tokens.dtype == targets.dtype == torch.int64
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    assert rows(one.train_dataloader()) != rows(other.train_dataloader())
    assert rows(one.val_dataloader()) == rows(other.val_dataloader())
    assert not set(rows(one.val_dataloader())) & set(rows(one.train_dataloader()))


@pytest.mark.parametrize("world", [1, 3])
def test_the_valid_split_is_fixed_windows_and_the_probe_some_of_them(folder, world):
    expected = rows(module(folder).val_dataloader())
    assert len(expected) == (2000 - 1) // WINDOW
    settings = {"batch_size": world, "valid_batch_size": 7, "valid_windows": 50}
    ranks = [module(folder, rank, world, **settings) for rank in range(world)]
    assert [row for data in ranks for row in rows(data.val_dataloader())] == expected[:50]
    tokens, targets = module(folder).probe(5, seed=1)
    assert tokens.shape == targets.shape == (5, WINDOW)
    assert set(map(tuple, tokens.tolist())) <= set(expected)


def test_the_true_loss_is_the_languages_own_on_the_validated_windows(folder):
    data = module(folder, valid_windows=40)
    language = KnownRank(60, 8)
    nats = [
        -language.log_prob[tokens.flatten(), targets.flatten()] for tokens, targets in data.val_dataloader()
    ]
    assert data.true_loss() == pytest.approx(float(torch.cat(nats).mean()), abs=1e-6)
    assert data.true_loss() == pytest.approx(language.entropy, abs=0.3)


def test_a_text_has_no_true_loss(prepared):
    assert TokenData(str(prepared.path), window=8).true_loss() is None


def test_the_global_generator_is_left_alone(folder):
    data = module(folder)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    rows(data.train_dataloader())
    data.probe(3, 0)
    data.true_loss()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_the_card_says_what_is_known(folder):
    corpus = open_corpus(folder)
    language = KnownRank(60, 8)
    assert isinstance(corpus, Generated)
    assert corpus.card.entropy == language.entropy
    assert corpus.card.unigram_entropy == language.unigram_entropy
    assert corpus.card.language_sha256 == language.sha256
    assert corpus.vocab_size == 60
    assert corpus.token_bytes.tolist() == [0] * 60
    corpus.verify()


def test_floors_are_added_to_a_folder_and_name_no_other_corpus(tmp_path):
    path, cache = tmp_path / "language", tmp_path / "floors"
    made = generate(KnownRank(40, 6), path, floor_ranks=[2], floor_norm="rmsnorm", floor_cache=cache)
    again = generate(KnownRank(40, 6), path, floor_ranks=[3, 2], floor_norm="rmsnorm", floor_cache=cache)
    assert again.sha256 == made.sha256 == generate(KnownRank(40, 6), path).sha256
    card = json.loads((path / "corpus.json").read_text())
    assert [floor["rank"] for floor in card["floors"]] == [2, 3]
    assert again.floor(2, "rmsnorm", False) == asdict(
        solve_floor(KnownRank(40, 6), 2, "rmsnorm", cache=cache)
    )
    assert again.floor(2, "none", False) is None
    assert again.floor(4, "rmsnorm", False) is None


def test_an_output_that_holds_something_else_is_refused_and_left(tmp_path, folder, prepared):
    (tmp_path / "note.txt").write_text("mine")
    for path, fault in (
        (tmp_path, "is not a language"),
        (tmp_path / "note.txt", "is not a language"),
        (folder, "holds another corpus"),
        (prepared.path, "holds another corpus"),
    ):
        with pytest.raises(InputError, match=fault):
            generate(SpamLang(60), path)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]
    with pytest.raises(InputError, match="holds another corpus"):
        generate(KnownRank(60, 8), folder, valid_tokens=3000)


def test_a_damaged_card_is_one_line(tmp_path, folder):
    card = json.loads((folder / "corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps({"language": "KnownRank"}))
    with pytest.raises(InputError, match="damaged or of another version"):
        open_corpus(tmp_path)
    card["settings"]["seed"] = 5
    (tmp_path / "corpus.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="names another language"):
        module(tmp_path)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [({"window": 2000}, "the valid split .* has 2000 tokens"), ({"corpus_sha256": "0" * 64}, "names 0000")],
)
def test_settings_that_do_not_fit_are_one_line(folder, settings, fault):
    with pytest.raises(InputError, match=fault):
        module(folder, **settings)
