"""The data module: batches of token windows for Lightning, the same on any number of devices.

Design decisions:
- `batch_size` is the global batch, windows an optimiser step; devices and accumulation only share
  it out. Rank r takes the r-th slice of each micro step, so the union is one process's batch.
- Training starts at the trainer's `global_step` the moment its loader is iterated: resuming needs
  no state of its own. The loader's length is that of the whole run, since Lightning counts batches
  from the run's start.
- A sampler yields the indices of a whole batch and the dataset fetches them in one gather, with or
  without workers: a step may take 3 ms.
- A language's folder works as a corpus does: its windows are made from their index instead of read.
- Every loader draws its seeds from a generator of its own: evaluating never moves the global one.
- The trainer must be made with `use_distributed_sampler=False`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rankbound.corpora.corpus import Corpus
from rankbound.corpora.generated import Generated, open_corpus
from rankbound.corpora.language_data import GeneratedWindows
from rankbound.corpora.split import SplitName
from rankbound.corpora.windows import SampleOrder, count_windows
from rankbound.errors import InputError

Indices = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]


class Order(Protocol):
    """Which windows each step trains on, a function of the step."""

    def batch(self, step: int) -> Indices: ...


class Windows(Dataset[Batch]):
    """Windows of one split by index, (B,) -> inputs and targets, each (B, window) int64.

    The shard is mapped on first use in each process and never pickled.
    """

    def __init__(self, corpus: Corpus, split: SplitName, window: int) -> None:
        self._corpus, self._split = corpus, split
        self.window = window
        self._rows: NDArray[Any] | None = None
        where = f"the {split} split of {corpus.path}"
        self._length = count_windows(corpus.card.splits[split].tokens, window, where)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, indices: Indices) -> Batch:
        if self._rows is None:
            tokens = self._corpus.tokens(self._split)
            self._rows = sliding_window_view(tokens, self.window + 1)[:: self.window]
        block = self._rows[indices]
        inputs, targets = block[:, :-1].astype(np.int64), block[:, 1:].astype(np.int64)
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def order(self, batch_size: int, seed: int) -> Order:
        """Every window once an epoch."""
        return SampleOrder(len(self), batch_size, seed)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}


class TrainSampler(Sampler[Indices]):
    """Yields the windows of each micro batch of one rank, from `first_step()` to the last step."""

    def __init__(
        self,
        order: Order,
        first_step: Callable[[], int],
        total_steps: int,
        accumulation: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._order, self._first_step, self._total_steps = order, first_step, total_steps
        self._accumulation, self._rank, self._world_size = accumulation, rank, world_size

    def __iter__(self) -> Iterator[Indices]:
        for step in range(self._first_step(), self._total_steps):
            batch = self._order.batch(step)
            yield from batch.reshape(self._accumulation, self._world_size, -1)[:, self._rank]

    def __len__(self) -> int:
        return self._total_steps * self._accumulation


class TokenData(LightningDataModule):
    """Train and validation batches of a prepared corpus, each `(tokens_BT, targets_BT)`, int64.

    Args:
        corpus: Folder made by rankbound prepare, or by rankbound language.
        window: Tokens a model reads at once (T).
        batch_size: Windows an optimiser step, over all devices and accumulated micro batches.
        micro_batch_size: Windows a device and forward pass; batch_size / devices by default.
        seed: Order of the windows; of a language, its text.
        valid_windows: Validate on the first so many windows only; all by default.
        valid_batch_size: Windows a device and forward pass in validation; as in training by
            default.
        num_workers: Processes that load batches on each device.
        corpus_sha256: Refuse a corpus with another hash of tokenizer and shards.

    Raises:
        InputError: A corpus that is missing, damaged, shorter than a window or not the one named,
            or sizes that do not divide.
    """

    def __init__(
        self,
        corpus: str = "data/sotu-4096",
        window: int = 128,
        batch_size: int = 16,
        micro_batch_size: int | None = None,
        seed: int = 0,
        valid_windows: int | None = None,
        valid_batch_size: int | None = None,
        num_workers: int = 0,
        corpus_sha256: str | None = None,
    ) -> None:
        super().__init__()
        counts = {
            "window": window,
            "batch_size": batch_size,
            "micro_batch_size": micro_batch_size,
            "valid_windows": valid_windows,
            "valid_batch_size": valid_batch_size,
        }
        for name, value in counts.items():
            if value is not None and value < 1:
                raise InputError(f"data.{name} is {value}: choose at least 1")
        self.window, self.batch_size, self.seed = window, batch_size, seed
        self._micro_batch_size, self._num_workers = micro_batch_size, num_workers
        self._valid_windows, self._valid_batch_size = valid_windows, valid_batch_size
        self.corpus = open_corpus(corpus)
        if corpus_sha256 is not None and corpus_sha256 != self.corpus.sha256:
            raise InputError(
                f"{corpus} is corpus {self.corpus.sha256[:12]}, data.corpus_sha256 names "
                f"{corpus_sha256[:12]}: point data.corpus at that one"
            )
        self._train = _windows(self.corpus, "train", window, seed)
        self._valid = _windows(self.corpus, "valid", window, seed)

    @property
    def vocab_size(self) -> int:
        return self.corpus.vocab_size

    @property
    def accumulation(self) -> int:
        """Forward passes a device makes each optimiser step."""
        _, world_size = self._rank_and_world()
        micro = self._windows_a_pass(world_size)
        if self.batch_size % (micro * world_size):
            raise InputError(
                f"data.batch_size {self.batch_size} is no multiple of {world_size} devices x "
                f"data.micro_batch_size {micro}: change one of them"
            )
        return self.batch_size // (micro * world_size)

    def setup(self, stage: str) -> None:
        self.corpus.verify()
        if stage == "fit" and self.trainer is not None:
            given, needed = self.trainer.accumulate_grad_batches, self.accumulation
            if given not in (1, needed):
                raise InputError(
                    f"trainer.accumulate_grad_batches is {given}, data.batch_size and "
                    f"data.micro_batch_size make it {needed}: leave it out or change those"
                )
            self.trainer.accumulate_grad_batches = needed

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        if trainer is None or trainer.max_steps < 0:
            raise InputError("trainer.max_steps is not set: it is the length of the run in steps")
        rank, world_size = self._rank_and_world()
        sampler = TrainSampler(
            order=self._train.order(self.batch_size, self.seed),
            first_step=lambda: trainer.global_step,
            total_steps=trainer.max_steps,
            accumulation=self.accumulation,
            rank=rank,
            world_size=world_size,
        )
        return self._loader(self._train, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Windows of the valid split in order, each on exactly one rank."""
        rank, world_size = self._rank_and_world()
        share = np.array_split(np.arange(self._valid_total), world_size)[rank]
        size = self._valid_batch_size or self._windows_a_pass(world_size)
        return self._loader(self._valid, [share[i : i + size] for i in range(0, len(share), size)])

    def probe(self, num_windows: int, seed: int) -> Batch:
        """Return fixed tokens of the valid split and those that follow them, the same on each rank.

        Both (num_windows, window) int64; fewer windows where the split has fewer, none comes twice.
        """
        size = min(num_windows, len(self._valid))
        return self._valid[SampleOrder(len(self._valid), size, seed).batch(0)]

    def true_loss(self) -> float | None:
        """What the language itself scores on the windows that are validated on; None for a text."""
        if isinstance(self._valid, GeneratedWindows):
            return self._valid.true_loss(self._valid_total)
        return None

    @property
    def _valid_total(self) -> int:
        return min(self._valid_windows or len(self._valid), len(self._valid))

    def _windows_a_pass(self, world_size: int) -> int:
        return self._micro_batch_size or max(self.batch_size // world_size, 1)

    def _rank_and_world(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(
        self, windows: Windows | GeneratedWindows, sampler: Sampler[Indices] | list[Indices]
    ) -> DataLoader[Batch]:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            windows,
            batch_size=None,
            sampler=sampler,
            num_workers=self._num_workers,
            pin_memory=on_cuda,
            generator=torch.Generator().manual_seed(self.seed),
        )


def _windows(
    corpus: Corpus | Generated, split: SplitName, window: int, seed: int
) -> Windows | GeneratedWindows:
    if isinstance(corpus, Generated):
        return GeneratedWindows(corpus, split, window, seed)
    return Windows(corpus, split, window)
