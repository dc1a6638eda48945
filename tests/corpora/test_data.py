import json
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import LightningModule, Trainer

from rankbound import InputError
from rankbound.corpora import SampleOrder
from rankbound.corpora.data import TokenData, TrainSampler, Windows

WINDOW = 16


def module(prepared, rank=0, world=1, step=0, max_steps=6, accumulate=1, **settings):
    """A data module that thinks it runs on one of several devices."""
    settings = {"window": WINDOW, "batch_size": 12, **settings}
    data = TokenData(str(prepared.path), **settings)
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world,
        global_step=step,
        max_steps=max_steps,
        accumulate_grad_batches=accumulate,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    data.setup("fit")
    return data


def rows(batches):
    return [tuple(row.tolist()) for tokens, _ in batches for row in tokens]


def test_a_batch_is_windows_and_the_tokens_after(prepared):
    ids = np.array(prepared.tokens("train")).astype(np.int64)
    indices = np.array([3, 0, 7])
    tokens, targets = Windows(prepared, "train", WINDOW)[indices]
    assert tokens.dtype == targets.dtype == torch.int64
    for row, i in enumerate(indices):
        assert tokens[row].tolist() == ids[i * WINDOW : i * WINDOW + WINDOW].tolist()
        assert targets[row].tolist() == ids[i * WINDOW + 1 : i * WINDOW + WINDOW + 1].tolist()


def test_a_dataset_pickles_without_its_tokens(prepared):
    windows = Windows(prepared, "train", WINDOW)
    small = len(pickle.dumps(windows))
    expected = windows[np.array([1])]
    assert len(pickle.dumps(windows)) == small < prepared.card.splits["train"].tokens
    assert torch.equal(pickle.loads(pickle.dumps(windows))[np.array([1])][0], expected[0])


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 50), st.integers(0, 5))
def test_ranks_and_micro_batches_share_out_one_batch(world, accumulation, micro, windows, start):
    order = SampleOrder(windows, world * accumulation * micro, seed=1)
    samplers = [
        TrainSampler(order, lambda: start, start + 2, accumulation, rank, world) for rank in range(world)
    ]
    seen = [list(sampler) for sampler in samplers]
    for step in range(2):
        micros = [b for rank in seen for b in rank[step * accumulation : (step + 1) * accumulation]]
        assert all(len(b) == micro for b in micros)
        assert sorted(np.concatenate(micros)) == sorted(order.batch(start + step))


@pytest.mark.parametrize(("world", "micro"), [(1, None), (1, 4), (2, None), (2, 3), (3, 2), (4, 1)])
def test_a_step_trains_on_the_same_windows_however_it_is_shared(prepared, world, micro):
    expected = rows(module(prepared).train_dataloader())
    ranks = [module(prepared, rank, world, micro_batch_size=micro) for rank in range(world)]
    accumulation = ranks[0].accumulation
    assert ranks[0].trainer.accumulate_grad_batches == accumulation
    loaders = [list(data.train_dataloader()) for data in ranks]
    assert all(len(loader) == 6 * accumulation for loader in loaders)
    for step in range(6):
        micros = slice(step * accumulation, (step + 1) * accumulation)
        shared = [row for loader in loaders for row in rows(loader[micros])]
        assert sorted(shared) == sorted(expected[step * 12 : (step + 1) * 12])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_loader_goes_on_where_the_first_would(prepared, workers):
    whole = rows(module(prepared, micro_batch_size=4).train_dataloader())
    data = module(prepared, micro_batch_size=4, num_workers=workers)
    loader = data.train_dataloader()
    data.trainer.global_step = 4  # a checkpoint is loaded after the loader is made
    assert len(loader) == 18
    assert rows(loader) == whole[4 * 12 :]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("valid_windows", [None, 4, 10**6])
def test_validation_reads_each_window_once_over_all_ranks(prepared, world, valid_windows):
    ids = np.array(prepared.tokens("valid")).astype(np.int64)
    total = (len(ids) - 1) // WINDOW
    expected = [tuple(ids[i * WINDOW : (i + 1) * WINDOW].tolist()) for i in range(total)]
    settings = {"valid_windows": valid_windows, "valid_batch_size": 7, "micro_batch_size": 1}
    settings["batch_size"] = world
    ranks = [module(prepared, rank, world, **settings) for rank in range(world)]
    seen = [row for data in ranks for row in rows(data.val_dataloader())]
    assert seen == expected[:valid_windows]


def test_loaders_leave_the_global_generator_alone(prepared):
    data = module(prepared, num_workers=1)
    before = torch.get_rng_state()
    list(data.train_dataloader())
    list(data.val_dataloader())
    data.probe(4, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_probe_is_fixed_windows_of_the_valid_split(prepared):
    (first, follows), (again, _) = (module(prepared, *ranks).probe(5, seed=1) for ranks in ((), (1, 2)))
    assert first.shape == (5, WINDOW)
    assert first.dtype == torch.int64
    assert torch.equal(first, again)
    data = module(prepared)
    windows = rows(data.val_dataloader())
    assert {tuple(row.tolist()) for row in first} <= set(windows)
    assert sorted(map(tuple, data.probe(10**6, seed=1)[0].tolist())) == sorted(windows)
    assert not torch.equal(first, data.probe(5, seed=2)[0])
    assert torch.equal(first[:, 1:], follows[:, :-1])


class Recorder(LightningModule):
    """Keeps the windows each step trained on; saves a checkpoint where it stops."""

    def __init__(self, stop, checkpoint):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stop, self.checkpoint, self.seen = stop, checkpoint, []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.global_step, batch[0].tolist()))
        return self.weight * batch[0].float().mean()

    def on_train_batch_end(self, *_):
        if self.global_step == self.stop:
            self.trainer.save_checkpoint(self.checkpoint)
            self.trainer.should_stop = True

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(prepared, folder, stop=None, ckpt_path=None):
    """Train six steps, or to a checkpoint at step `stop`, or on from one."""
    trainer = Trainer(
        max_steps=6,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    recorder = Recorder(stop, folder / "stop.ckpt")
    data = TokenData(str(prepared.path), window=WINDOW, batch_size=12, micro_batch_size=6)
    trainer.fit(recorder, datamodule=data, ckpt_path=ckpt_path)
    return recorder.seen, float(recorder.weight)


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_lightning_resumes_sees_the_same_data(prepared, tmp_path):
    whole, weight = fit(prepared, tmp_path)
    assert [step for step, _ in whole] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    first, _ = fit(prepared, tmp_path, stop=4)
    rest, resumed = fit(prepared, tmp_path, ckpt_path=tmp_path / "stop.ckpt")
    assert first + rest == whole
    assert resumed == weight


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"window": 10**6}, "the train split .* has [0-9]+ tokens, one window of 1000000 needs 1000001"),
        ({"batch_size": 12, "micro_batch_size": 5}, "batch_size 12 .*micro_batch_size 5"),
        ({"batch_size": 5, "world": 2}, "batch_size 5 .* 2 devices"),
        ({"batch_size": 0}, "data.batch_size is 0"),
        ({"valid_windows": -1}, "data.valid_windows is -1"),
        ({"accumulate": 3}, "accumulate_grad_batches is 3, data.batch_size .* 1"),
        ({"corpus_sha256": "0" * 64}, "data.corpus_sha256 names 000000000000"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(prepared, settings, fault):
    with pytest.raises(InputError, match=fault) as caught:
        module(prepared, **settings)
    assert "\n" not in str(caught.value)


def test_the_named_corpus_is_accepted_and_a_changed_one_stops_the_run(copy):
    module(copy, corpus_sha256=copy.sha256)
    content = bytearray((copy.path / "train.bin").read_bytes())
    content[0] ^= 1
    (copy.path / "train.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"train\.bin differs"):
        module(copy)


def test_a_run_without_a_length_is_refused(prepared):
    with pytest.raises(InputError, match=r"trainer\.max_steps is not set"):
        module(prepared, max_steps=-1).train_dataloader()


def test_preparing_needs_neither_torch_nor_lightning():
    code = "import json, sys, rankbound.corpora; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert not {"torch", "lightning", "pytorch_lightning"} & set(json.loads(printed))
