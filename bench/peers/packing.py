"""Text to packed tokens in a process of its own: this project's way, and that of `datasets`.

The task, JSON, says `way`: `prepare` (read, split, encode, pack, hash: all but training a tokenizer), `map`
(`datasets.map` of a tokenizer over a loaded dataset, alone), or `packed` (load, map, and write what `map`
cached into one memory map, as training scripts do). All get the same file, tokenizer and processes.

Peak memory is this process's plus, for each of the others, that of the largest: an upper bound.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer


def by_prepare(task: dict[str, Any], folder: Path) -> tuple[float, int]:
    from rankbound.corpora import prepare

    start = time.perf_counter()
    corpus = prepare(
        task["input"],
        output=folder / "made",
        tokenizer=task["tokenizer"],
        processes=task["processes"],
    )
    return time.perf_counter() - start, sum(split.tokens for split in corpus.card.splits.values())


def by_map(task: dict[str, Any], folder: Path) -> tuple[float, int]:
    dataset = loaded(task, folder)
    start = time.perf_counter()
    mapped = tokenised(dataset, task)
    return time.perf_counter() - start, sum(mapped["length"])


def by_packed(task: dict[str, Any], folder: Path) -> tuple[float, int]:
    start = time.perf_counter()
    mapped = tokenised(loaded(task, folder), task)
    total = sum(mapped["length"])
    packed = np.memmap(folder / "packed.bin", dtype=np.uint16, mode="w+", shape=(total,))
    at, shards = 0, min(1024, len(mapped))
    for number in range(shards):
        shard = mapped.shard(num_shards=shards, index=number, contiguous=True).with_format("numpy")
        ids = np.concatenate(shard["ids"][:])
        packed[at : at + len(ids)] = ids
        at += len(ids)
    packed.flush()
    return time.perf_counter() - start, at


def loaded(task: dict[str, Any], folder: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(
        "json", data_files=task["input"], split="train", cache_dir=str(folder / "cache")
    )


def tokenised(dataset: Any, task: dict[str, Any]) -> Any:
    tokenizer = Tokenizer.from_file(task["tokenizer"])
    processes = task["processes"]
    if processes > 1:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return dataset.map(
        partial(ids_of, tokenizer),
        batched=True,
        remove_columns=dataset.column_names,
        num_proc=processes if processes > 1 else None,
    )


def ids_of(tokenizer: Tokenizer, batch: dict[str, list[str]]) -> dict[str, list[Any]]:
    ids = [[*encoding.ids, 0] for encoding in tokenizer.encode_batch_fast(batch["text"])]
    return {"ids": ids, "length": [len(i) for i in ids]}


def main() -> None:
    task = json.loads(sys.argv[1])
    ways = {"prepare": by_prepare, "map": by_map, "packed": by_packed}
    seconds, tokens = ways[task["way"]](task, Path(task["folder"]))
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    own, others = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak = own.ru_maxrss * unit
    if task["processes"] > 1:
        peak += others.ru_maxrss * unit * task["processes"]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in (own, others))
    print(json.dumps({"seconds": seconds, "cpu": cpu, "tokens": tokens, "peak": peak}))


if __name__ == "__main__":
    main()
