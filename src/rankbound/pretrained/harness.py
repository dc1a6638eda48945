"""The EleutherAI harness (`lm_eval`, an extra) on any model here.

Design decisions:
- What the harness asks of a model is a class of ours that knows nothing of it, so that it can be tested
  without; only `harness_tasks` imports `lm_eval` and joins that class to the harness's base.
- Texts are split, begun and cut as everywhere here (`texts.py`, `scoring.py`). Where that differs from the
  harness's own models: a token across the border of context and continuation is scored as the
  continuation's. Rolling windows are the harness's: each as full as can be, every token scored once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from rankbound.errors import InputError
from rankbound.pretrained.generating import Continuation, continued
from rankbound.pretrained.sampling import Sampling
from rankbound.pretrained.scores import Figure
from rankbound.pretrained.scoring import BATCH_TOKENS, Score, score
from rankbound.pretrained.texts import TextModel

MAX_TOKENS = 256  # of a generated answer, where a task names no length


class Request(Protocol):
    """What the harness hands over: `args` as documented for each method."""

    @property
    def args(self) -> tuple[Any, ...]: ...


class HarnessModel:
    """The three questions of `lm_eval.api.model.LM`.

    Args:
        text_model: the model.
        batch_tokens: padded tokens of a batch.
    """

    def __init__(self, text_model: TextModel, batch_tokens: int = BATCH_TOKENS) -> None:
        super().__init__()
        self._text_model, self._batch_tokens = text_model, batch_tokens

    def loglikelihood(
        self, requests: Sequence[Request], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """log p(continuation | context) of each (context, continuation), and whether it is greedy."""
        pieces = self._text_model.continuations([(r.args[0], r.args[1]) for r in requests])
        return [(s.total, bool(s.greedy)) for s in self._score(pieces, greedy=True)]

    def loglikelihood_rolling(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[float]:
        """log p(text) in nats of each (text,)."""
        pieces = self._text_model.documents([r.args[0] for r in requests])
        return [s.total for s in self._score(pieces, greedy=False)]

    def generate_until(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each (context, settings), cut before the first of `settings["until"]`."""
        return [self._generated(str(r.args[0]), dict(r.args[1])) for r in requests]

    def _score(self, pieces: Sequence[Any], greedy: bool) -> list[Score]:
        context = self._text_model.context
        return score(
            self._text_model.model,
            pieces,
            context,
            stride=context,
            batch_tokens=self._batch_tokens,
            greedy=greedy,
        )

    def _generated(self, prompt: str, settings: Mapping[str, Any]) -> str:
        own = self._text_model
        stops = settings.get("until") or []
        stops = [stops] if isinstance(stops, str) else list(stops)
        length = int(settings.get("max_gen_toks", MAX_TOKENS))
        draws = bool(settings.get("do_sample", False)) and float(settings.get("temperature") or 0) > 0
        sampling = Sampling(
            temperature=float(settings["temperature"]) if draws else 1.0,
            top_k=settings.get("top_k") if draws else None,
            top_p=settings.get("top_p") if draws else None,
            greedy=not draws,
        )
        ids = [*own.start, *own.encode([prompt])[0]]
        ids = ids[-max(1, own.context - length) :]
        next_token = Continuation(own.model, own.context)
        place = own.model.body.embedding.weight.device
        generator = torch.Generator(place).manual_seed(0)
        made: list[int] = []
        text = ""
        for token in continued(ids, next_token, sampling, length, own.stops, generator):
            made.append(token)
            text = own.decode(made)
            if any(stop in text for stop in stops):
                break
        cuts = [text.index(stop) for stop in stops if stop in text]
        return text[: min(cuts)] if cuts else text


def harness_tasks(
    text_model: TextModel,
    tasks: Sequence[str],
    task_files: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Figure]:
    """Scores of the harness's tasks by name.

    Args:
        text_model: the model.
        tasks: names, of the harness or of `task_files`.
        task_files: folder of the harness's YAML task files, which may name data on the disk; with it
            nothing is fetched for a task that is in it.
        num_fewshot: examples before each question; the task's own number if not given.
        limit: the first so many items of each task.
        batch_tokens: padded tokens of a batch.

    Raises:
        InputError: `lm_eval` is not installed, a task is not known, or its data cannot be read.
    """
    evaluate, manager, base = _lm_eval(tasks, task_files)
    model = type("HarnessLM", (HarnessModel, base), {})(text_model, batch_tokens)
    try:
        results = evaluate(
            model=model,
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            log_samples=False,
            bootstrap_iters=1000,  # of what is no mean; means have standard errors by formula
        )
    except (OSError, ConnectionError, ValueError) as failure:
        if isinstance(failure, InputError):
            raise
        why = " ".join(str(failure).split())[:300] or type(failure).__name__
        raise InputError(f"the harness could not read {', '.join(tasks)}: {why}") from failure
    return list(_figures(results))


def _figures(results: Mapping[str, Any]) -> Iterable[Figure]:
    """The harness's results, `metric,filter` and `metric_stderr,filter`, as ours."""
    for task, values in results["results"].items():
        counts = results.get("n-samples", {}).get(task, {})
        for key, value in values.items():
            metric, comma, rule = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{rule}")
            stderr = float(error) if isinstance(error, int | float) else float("nan")
            name = metric if rule == "none" else f"{metric} ({rule})"
            yield Figure(task, name, float(value), stderr, int(counts.get("effective", 0)))


def _lm_eval(tasks: Sequence[str], task_files: Path | None) -> tuple[Callable[..., Any], Any, type]:
    """`simple_evaluate`, a manager that knows all the tasks, and the base class of models."""
    if task_files is not None and not task_files.is_dir():
        raise InputError(f"task_files {task_files} is no folder")
    try:
        from lm_eval import simple_evaluate
        from lm_eval.api.model import LM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(
            f"tasks of the EleutherAI harness need lm_eval ({error}): pip install 'rankbound[lm_eval]'"
        ) from error
    folder = None if task_files is None else str(task_files)
    # Reading the harness's own thousands of task files takes seconds: only where they are asked for.
    for own_too in (False, True) if folder else (True,):
        manager = TaskManager(include_path=folder, include_defaults=own_too)
        unknown = [name for name in tasks if not manager.match_tasks([name])]
        if not unknown:
            return simple_evaluate, manager, LM
    raise InputError(
        f"the harness knows no task {', '.join(unknown)}: see `lm_eval ls tasks`, or name a folder of task "
        "files by --task_files"
    )
