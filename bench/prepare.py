"""How fast a corpus is prepared, beside `datasets`, and in how much memory.

    python bench/prepare.py                         # 100 MB, two processes, three rounds: some ten minutes
    python bench/prepare.py --megabytes 1000 --ways prepare --rounds 1     # memory on a large input

The text is made here: documents of 100 to 1,000 words, drawn by Zipf's law from ever more different words,
as JSON lines. Preparing is all of it but training the tokenizer: read, hash, drop copies, split, encode,
pack, hash the result. `map` is `datasets.map` with the same tokenizer and as many processes, over a dataset
that is loaded already; `packed` loads, maps and writes one memory map. Speeds are MB of text a second, a
ratio is the median of the rounds' ratios. CPU seconds are those of all processes from start to end, with
imports, and for `map` with loading: where the times differ more, another program had the cores.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from measure import machine, megabytes, peer, table, turn, verdict

WAYS = ("prepare", "map", "packed")
AS_FAST_AS_MAP, FASTER_THAN_PACKED, MOST_MEMORY = 1.0, 1.3, 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of preparing a corpus.")
    parser.add_argument("--megabytes", type=int, default=100, help="size of the text that is made")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--folder", type=Path, help="where to work; some ten times the text's size")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        text, tokenizer = folder / "text.jsonl", folder / "tokenizer.json"
        sizes = {"bytes": args.megabytes * 10**6, "vocab_size": args.vocab_size}
        made = {"text": str(text), "tokenizer": str(tokenizer), **sizes}
        size = peer(sys.executable, "made_text.py", made, args.processes)["bytes"]
        task = {"input": str(text), "tokenizer": str(tokenizer), "processes": args.processes}
        rounds = [one_round(task, folder, turn(number, args.ways)) for number in range(args.rounds)]
    print(
        f"{machine()}\n{size / 1e6:,.0f} MB, vocabulary {args.vocab_size:,}, {args.processes} processes\n"
    )
    report(rounds, size)


def one_round(task: dict[str, str], folder: Path, ways: tuple[str, ...]) -> dict[str, dict[str, float]]:
    results = {}
    for way in ways:
        scratch = folder / "scratch"
        scratch.mkdir()
        # With one process the tokenizer's own threads share the work, with several there are none.
        results[way] = peer(sys.executable, "packing.py", {**task, "way": way, "folder": str(scratch)}, 1)
        shutil.rmtree(scratch)
        print(f"{way}: {results[way]['seconds']:.1f} s", file=sys.stderr)
    return results


def report(rounds: list[dict[str, dict[str, float]]], size: int) -> None:
    rows = []
    for way in (way for way in WAYS if way in rounds[0]):
        seconds = [r[way]["seconds"] for r in rounds]
        rows.append(
            [
                way,
                f"{size / 1e6 / statistics.median(seconds):.2f}",
                f"{size / 1e6 / max(seconds):.2f}",
                f"{size / 1e6 / min(seconds):.2f}",
                f"{statistics.median(r[way]['cpu'] for r in rounds):.0f}",
                f"{ratio(rounds, way):.2f}" if "prepare" in rounds[0] else "",
                megabytes(max(r[way]["peak"] for r in rounds)),
                f"{rounds[0][way]['tokens']:,.0f}",
            ]
        )
    print(table(["", "MB/s", "from", "to", "CPU s", "prepare / this", "memory, at most", "tokens"], rows))
    print()
    if "prepare" in rounds[0]:
        if "map" in rounds[0]:
            print(verdict("prepare / map alone", ratio(rounds, "map"), AS_FAST_AS_MAP))
        if "packed" in rounds[0]:
            print(verdict("prepare / packed", ratio(rounds, "packed"), FASTER_THAN_PACKED))
        peak = max(r["prepare"]["peak"] for r in rounds)
        print(verdict("prepare, GiB of memory", peak / 2**30, MOST_MEMORY / 2**30, at_most=True))


def ratio(rounds: list[dict[str, dict[str, float]]], way: str) -> float:
    """Speed of `prepare` over that of `way`."""
    return statistics.median(r[way]["seconds"] / r["prepare"]["seconds"] for r in rounds)


if __name__ == "__main__":
    main()
