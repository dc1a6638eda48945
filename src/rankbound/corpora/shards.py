"""Parts of text to parts of tokens, and those to shards.

    tokens-00000.train.bin   and the other splits: ids, each document closed by the end of text
    tokens-00000.npy         how often each token occurs in each split, (splits, V)
    tokens-00000.json        counts of each split; written last, so that a part with it is whole

Design decisions:
- In one process `tokenizers` shares a batch out among its threads. Where there are many parts, processes of
  one thread each do better: nothing in them waits for Python's lock or for each other.
- A worker is a plain child that reads numbers of parts from its standard input. It needs nothing of the
  program that prepares, and ends when that does, however it ends.
- Tokens do not depend on how the work is shared: batches and parts end between documents.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rankbound.corpora.disk import npy, write
from rankbound.corpora.encoding import encode
from rankbound.corpora.parts import Parts
from rankbound.corpora.reduction import Reduction, counted
from rankbound.corpora.sources import UnfinishedError
from rankbound.corpora.split import SPLITS, Split, SplitName
from rankbound.corpora.tokenizer import load_tokenizer, vocabulary_size

_MOST_PROCESSES = 4  # by default: each takes some 130 MB, and all that prepares is to stay below 1 GiB
_TELL = 1 << 18  # bytes encoded between two words about it
LEFT_OUT = 255  # beside the places in `SPLITS`
_SPLIT, _TOKENIZER = "split.json", "tokenizer.json"

Tick = Callable[[int], None]
Counts = dict[str, Counter[str]]


def dtype_for(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The smallest type of ids for a vocabulary."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclass
class Work:
    """All that encoding needs, in a folder: parts of text, the split, the tokenizer, and the word list."""

    folder: Path
    parts: Parts
    split: Split
    tokenizer: Tokenizer
    reduction: Reduction | None = None

    @staticmethod
    def load(folder: Path) -> Work:
        split = Split(**json.loads((folder / _SPLIT).read_text()))
        tokenizer = load_tokenizer(folder / _TOKENIZER)
        return Work(folder, Parts(folder, 0), split, tokenizer, Reduction.load(folder))

    def save(self) -> None:
        write(self.folder / _SPLIT, [json.dumps(asdict(self.split)).encode()])
        if self.reduction is not None:
            self.reduction.save(self.folder)
        write(self.folder / _TOKENIZER, [self.tokenizer.to_str(pretty=True).encode()])

    def assign(self, number: int, left_out: NDArray[np.bool_]) -> None:
        """Say which documents of a part to leave out, shape (documents,), and where the others go."""
        places = self.split.numbers(self.parts.entries(number)["hash"])
        places[left_out] = LEFT_OUT
        write(self.folder / f"split-{number:05}.npy", [npy(places)])

    def texts(self, number: int, name: SplitName) -> Iterator[str]:
        """Yield the texts of one split in a part."""
        yield from texts_of(
            self.parts, number, self.split, np.load(self.folder / f"split-{number:05}.npy"), name
        )

    def is_encoded(self, number: int) -> bool:
        return self._file(number, "json").exists()

    def encode(self, number: int, tick: Tick) -> None:
        """Encode one part; `tick` is told the bytes of text that are done."""
        counts: Counts = {}
        occurrences = np.zeros((len(SPLITS), vocabulary_size(self.tokenizer)), dtype=np.int64)
        for name in self.split.names:
            counts[name] = Counter()
            ids = self._ids(_ticked(self.texts(number, name), tick), counts[name])
            write(self._file(number, f"{name}.bin"), _packed(ids, occurrences[SPLITS.index(name)]))
        write(self._file(number, "npy"), [npy(occurrences)])
        write(self._file(number, "json"), [json.dumps(counts).encode()])

    def _ids(self, texts: Iterable[str], counts: Counter[str]) -> Iterator[NDArray[np.uint32]]:
        if self.reduction is not None:
            return self.reduction.encode(self.tokenizer, texts, counts)
        return encode(self.tokenizer, counted(texts, counts))

    def counts(self, name: SplitName) -> Counter[str]:
        """Documents, bytes and words of a split over all parts, and what a word list saw."""
        total: Counter[str] = Counter()
        for number in range(len(self.parts)):
            total.update(json.loads(self._file(number, "json").read_text())[name])
        return total

    def occurrences(self) -> NDArray[np.int64]:
        """How often each token occurs in each split, (splits, V)."""
        total = np.zeros((len(SPLITS), vocabulary_size(self.tokenizer)), dtype=np.int64)
        for number in range(len(self.parts)):
            total += np.load(self._file(number, "npy"))
        return total

    def shard(self, name: SplitName) -> Iterator[NDArray[np.unsignedinteger]]:
        """The tokenizer's ids of a split over all parts, in blocks."""
        dtype = dtype_for(vocabulary_size(self.tokenizer))
        for number in range(len(self.parts)):
            with self._file(number, f"{name}.bin").open("rb") as file:
                while block := file.read(1 << 20):
                    yield np.frombuffer(block, dtype)

    def _file(self, number: int, kind: str) -> Path:
        return self.folder / f"tokens-{number:05}.{kind}"


def texts_of(
    parts: Parts, number: int, split: Split, places: NDArray[np.uint8], name: SplitName
) -> Iterator[str]:
    """Yield the texts of one split in a part; `places` (documents,) says where each goes."""
    if split.valid_to is None:
        for text in parts.texts(number, places != LEFT_OUT):
            yield split.cut(text)[name]
    else:
        yield from parts.texts(number, places == SPLITS.index(name))


def default_processes(parts: int) -> int:
    """A process a core where there is work for all, else one whose threads share each batch."""
    cores = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, _MOST_PROCESSES)
    return cores if parts >= 2 * cores else 1


def encode_parts(work: Work, processes: int, tick: Tick) -> None:
    """Encode all parts that are not encoded yet, in this process or in several others."""
    waiting = [number for number in range(len(work.parts)) if not work.is_encoded(number)]
    if min(processes, len(waiting)) < 2:
        for number in waiting:
            work.encode(number, tick)
            work.parts.forget(number)
    else:
        _encode_in_workers(work, waiting, min(processes, len(waiting)), tick)


def _encode_in_workers(work: Work, waiting: Sequence[int], processes: int, tick: Tick) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(processes) as threads:
        idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        for _ in range(processes):
            worker = _worker(work.folder)
            stack.callback(_end, worker)
            idle.put(worker)
        futures = {threads.submit(_ask, idle, number): number for number in waiting}
        try:
            for done in as_completed(futures):
                done.result()
                work.parts.forget(futures[done])
                tick(int(work.parts.entries(futures[done])["bytes"].sum()))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            stack.close()  # a worker in the middle of a part
            raise


def _worker(folder: Path) -> subprocess.Popen[str]:
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"import {__name__} as shards; shards.serve()", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is ours to answer
    )


def _ask(idle: SimpleQueue[subprocess.Popen[str]], number: int) -> None:
    """Have an idle worker encode a part; raises OSError as the worker met it."""
    worker = idle.get()
    answer = ""
    if worker.stdin is not None and worker.stdout is not None:
        with suppress(BrokenPipeError):
            print(number, file=worker.stdin, flush=True)
            answer = worker.stdout.readline()
    idle.put(worker)
    if not answer:
        raise UnfinishedError(
            f"a process that encodes was ended (status {worker.wait()}), perhaps for want of memory: the "
            "same command goes on, with fewer --processes if need be"
        )
    if failed := json.loads(answer):
        raise OSError(*failed)


def _end(worker: subprocess.Popen[str]) -> None:
    worker.terminate()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def serve() -> None:
    """What a worker does: encode the parts asked for, until no more are."""
    work = Work.load(Path(sys.argv[1]))
    for number in sys.stdin:
        failed: list[int | str] = []
        try:
            work.encode(int(number), lambda _: None)
        except OSError as error:
            failed = [error.errno or errno.EIO, error.strerror or str(error)]
        try:
            print(json.dumps(failed), flush=True)
        except BrokenPipeError:  # nobody waits for it any more
            os._exit(0)


def _ticked(texts: Iterable[str], tick: Tick) -> Iterator[str]:
    done = 0
    for text in texts:
        yield text
        done += len(text.encode())
        if done > _TELL:  # telling costs more than a short text does
            tick(done)
            done = 0
    tick(done)


def _packed(arrays: Iterable[NDArray[np.uint32]], row: NDArray[np.int64]) -> Iterator[bytes]:
    """The ids as they lie on disk, counted into `row`, shape (V,)."""
    dtype = dtype_for(len(row))
    for ids in arrays:
        row += np.bincount(ids, minlength=len(row))
        yield ids.astype(dtype).tobytes()
