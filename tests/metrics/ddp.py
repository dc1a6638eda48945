"""Metrics under real DDP: two gloo processes, started once for a test session and then reused.

They meet through a file, so no port is needed. What goes to them is pickled: `make_metric` must be found by
its module's name (a class, a top-level function, functools.partial of one).
"""

import pickle
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing
from torchmetrics import Metric

WORLD = 2


def reduced(make_metric: Callable[[], Metric], batches_by_rank: Sequence[Sequence[tuple[Any, ...]]]) -> Any:
    """What rank 0 computes after each rank has updated with its batches, tuples of update's arguments.

    Raises what a rank raised; the ranks must have computed the same.
    """
    pipes, _ = _workers()
    assert len(batches_by_rank) == WORLD
    for pipe, batches in zip(pipes, batches_by_rank, strict=True):
        pipe.send_bytes(pickle.dumps((make_metric, batches)))
    results = [pickle.loads(pipe.recv_bytes()) for pipe in pipes]
    for result in results:
        if isinstance(result, Exception):
            raise result
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0, equal_nan=True)
    return results[0]


@cache
def _workers() -> tuple[list[Connection], "tempfile.TemporaryDirectory[str]"]:
    """Pipes to the processes and the folder they meet in; all end with this process."""
    context = multiprocessing.get_context("spawn")
    folder = tempfile.TemporaryDirectory()
    meeting = Path(folder.name) / "meeting"
    pipes = []
    for rank in range(WORLD):
        here, there = context.Pipe()
        context.Process(target=_serve, args=(rank, str(meeting), there), daemon=True).start()
        pipes.append(here)
    return pipes, folder


def _serve(rank: int, meeting: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=120),
    )
    while True:
        try:
            task = pipe.recv_bytes()
        except EOFError:  # the tests are over
            return
        try:
            make_metric, batches = pickle.loads(task)
            metric = make_metric()
            for batch in batches:
                metric.update(*batch)
            result = metric.compute()
        except Exception as error:
            result = error
        pipe.send_bytes(pickle.dumps(result))
