"""Causal attention on a CPU: the plain masked softmax against scaled_dot_product_attention.

    python bench/attention.py                 # two threads, about 3 minutes

At every window the same number of tokens is cut into windows. Both ways read queries, keys and values from
one fused projection and end in the layout that the output projection wants, as in the model. Times are
medians over rounds in which the ways take turns, forward and backward; the backward's share stands beside.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from itertools import product
from statistics import median
from typing import Any

from measure import machine, table, turn
from quiet import Quiet

HEADER = ("window", "setting", "plain", "its backward", "sdpa", "its backward", "sdpa / plain")


def main() -> None:
    options = arguments()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # read when torch is loaded
    print(f"{machine()}; {options.threads} threads")
    size = options.hidden_size // options.heads
    print(f"{options.tokens:,} tokens, {options.heads} heads of {size}", flush=True)
    quiet = Quiet(options.patience)
    rows = [
        row(options, quiet, window, compiled, precision)
        for window, compiled, precision in product(options.windows, (False, True), ("fp32", "bf16"))
    ]
    print(table(HEADER, rows))
    print(f"{machine()}; {quiet}")


def row(
    options: argparse.Namespace, quiet: Quiet, window: int, compiled: bool, precision: str
) -> tuple[str, ...]:
    """Both ways at one window and setting."""
    import torch

    torch._dynamo.reset()
    shape = (options.tokens // window, window, 3 * options.hidden_size)
    qkv = torch.randn(
        shape, dtype=torch.bfloat16 if precision == "bf16" else torch.float32
    ).requires_grad_()
    ways = {}
    for name, attend in ways_to_attend().items():
        attention = around(attend, options.heads, window, options.hidden_size // options.heads)
        ways[name] = torch.compile(attention, dynamic=False) if compiled else attention
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(-2, options.rounds):  # the first two compile and warm up
        for name in turn(number, list(ways)):
            found = quiet.run(lambda way=ways[name]: forward_backward(way, qkv, options.repetitions))
            if number >= 0:
                times[name].append(found)
    cells: list[str] = []
    for name in ways:
        both = median(sum(pair) for pair in times[name])
        backward = median(pair[1] for pair in times[name])
        cells += [f"{both * 1e3:.1f} ms", f"{backward * 1e3:.1f} ms"]
    pairs = zip(times["sdpa"], times["plain"], strict=True)
    ratio = median(sum(sdpa) / sum(plain) for sdpa, plain in pairs)
    return (str(window), f"{'compiled' if compiled else 'eager'} {precision}", *cells, f"{ratio:.2f}")


def ways_to_attend() -> dict[str, Callable[..., Any]]:
    """The two ways, each of (query, key, value), all (B, H, T, E)."""
    from torch.nn.functional import scaled_dot_product_attention

    from rankbound.model import attention

    attention.CPU_SHORT_WINDOW = 2**30  # so that it is plain at every window
    return {
        "plain": lambda query, key, value: attention.causal_attention(query, key, value, 0.0),
        "sdpa": lambda query, key, value: scaled_dot_product_attention(query, key, value, is_causal=True),
    }


def around(attend: Callable[..., Any], heads: int, window: int, head_size: int) -> Callable[..., Any]:
    """Attention with rotary positions, from a fused projection's (B, T, 3 D) to (B, T, D)."""
    from einops import rearrange

    from rankbound.model.rotary import rotary_table, rotate

    cos, sin = rotary_table(window, rotated=head_size // 4, base=10_000.0)

    def attention(qkv: Any) -> Any:
        query, key, value = rearrange(qkv, "b t (three h e) -> three b h t e", three=3, h=heads)
        attended = attend(rotate(query, cos, sin), rotate(key, cos, sin), value)
        return rearrange(attended, "b h t e -> b t (h e)")

    return attention


def forward_backward(attention: Callable[..., Any], qkv: Any, repetitions: int) -> tuple[float, float]:
    """Seconds of the forward and of the backward pass, in the fastest of some repetitions."""
    found = []
    for _ in range(repetitions):
        qkv.grad = None
        start = time.perf_counter()
        attended = attention(qkv)
        between = time.perf_counter()
        attended.backward(attended.detach())
        found.append((between - start, time.perf_counter() - between))
    return min(found, key=sum)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    for name, default in (
        ("threads", 2),
        ("rounds", 7),
        ("repetitions", 20),
        ("tokens", 2048),
        ("hidden-size", 128),
        ("heads", 4),
        ("patience", 0),  # seconds in all to wait for a quiet machine
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
