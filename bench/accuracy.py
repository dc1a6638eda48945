"""How exact the metrics are: each estimator against an independent reference.

    python bench/accuracy.py                  # one thread, about 20 seconds; needs the dev extra

References are NumPy's SVD, SciPy's statistics and distances, and the papers' formulas over all N x N pairs,
all in float64. They get the very numbers that the estimator gets: bf16 input is rounded before both, so an
error is the estimator's, not the rounding's. An error is relative to the reference (of singular values: to
the largest), the worst of some draws, and told as the least of 1e-12, 1e-9, 1e-6 and 1e-3 that it does not
exceed. Finer bounds would differ between machines; `--digits` prints what was measured on this one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import scipy.spatial
import scipy.special
import scipy.stats
import torch
from numpy.typing import NDArray
from torch import Tensor

import accuracy_heads
from measure import table
from rankbound.metrics import geometry, neighbours, similarity, singular, spectrum

Array = NDArray[np.float64]
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}
BATCH = 300
DRAWS = 5
BOUNDS = (1e-12, 1e-9, 1e-6, 1e-3)

Estimate = Callable[[Tensor], Tensor]
Reference = Callable[[Array], float | Array]


def main() -> None:
    parser = argparse.ArgumentParser(description="Errors of the metrics against independent references.")
    parser.add_argument("--digits", action="store_true", help="print measured errors, not their bounds")
    told = "{:.1e}".format if parser.parse_args().digits else bound
    torch.set_num_threads(1)
    print("Matrices; the values of the hard spectrum are log-spaced from 1 to 1e-9.\n")
    print(errors([matrices(seed) for seed in range(DRAWS)], SPECTRUM, by_svd, told))
    print("\nHidden states; the shifted ones have a mean 5 times their spread.\n")
    print(errors([states(seed) for seed in range(DRAWS)], STATES, lambda x: x, told))
    print("\nHeads and the states they read; the wide ones' columns fall from 1 to 1e-4.\n")
    of_heads = [
        in_dtypes({name: (x, ("fp32", "bf16")) for name, x in accuracy_heads.heads(seed).items()})
        for seed in range(DRAWS)
    ]
    print(errors(of_heads, accuracy_heads.ESTIMATORS, lambda x: x, told))
    print(
        f"\nRelative errors (of singular values: relative to the largest), the worst of {DRAWS} draws, "
        "at most what is said.\nbf16 input is rounded before the estimator and before its reference."
    )


def errors(
    draws: Sequence[Mapping[str, Tensor]],
    estimators: Mapping[str, tuple[str, Reference, Estimate]],
    prepare: Callable[[Array], Array],
    told: Callable[[float], str],
) -> str:
    """A table of estimators by inputs; a reference gets what `prepare` makes of the input, once."""
    worst = {(name, i): 0.0 for name in estimators for i in draws[0]}
    for draw in draws:
        for i, given in draw.items():
            prepared = prepare(given.double().numpy())
            for name, (_, reference, estimate) in estimators.items():
                worst[name, i] = max(worst[name, i], error(estimate(given), reference(prepared)))
    rows = [
        [name, source, *(told(worst[name, i]) for i in draws[0])]
        for name, (source, _, _) in estimators.items()
    ]
    return table(["estimator", "reference", *draws[0]], rows)


def error(found: Tensor, expected: float | Array) -> float:
    """Largest error over the largest number expected."""
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


def bound(off: float) -> str:
    return next((f"{most:.0e}" for most in BOUNDS if off <= most), "no digit")


def matrices(seed: int) -> dict[str, Tensor]:
    """Name: matrix, the decisive sizes, input types and spectra."""
    rng = np.random.default_rng(seed)
    tall, square = (
        rng.normal(size=(n, d)) * rng.uniform(0.2, 2, size=d) for n, d in ((8192, 256), (512, 384))
    )
    u, _ = np.linalg.qr(rng.normal(size=(4096, 128)))
    v, _ = np.linalg.qr(rng.normal(size=(128, 128)))
    hard = u * np.logspace(0, -9, 128) @ v.T
    kinds = {
        "8,192 x 256": (tall, ("fp32", "bf16")),
        "512 x 384": (square, ("fp32", "bf16")),
        "hard, 4,096 x 128": (hard, ("fp64", "fp32", "bf16")),
    }
    return in_dtypes(kinds)


def states(seed: int) -> dict[str, Tensor]:
    """Name: states (N, D) on a curved sheet of ten dimensions, with noise."""
    rng = np.random.default_rng(seed)

    def sheet(count: int, width: int) -> Array:
        inner = rng.uniform(-1, 1, size=(count, 10))
        return np.sin(inner @ rng.normal(size=(10, width))) + 1e-2 * rng.normal(size=(count, width))

    kinds = {
        "1,000 x 64": (sheet(1000, 64) + 0.5, ("fp32", "bf16")),
        "500 x 256": (sheet(500, 256) + 0.5, ("fp32", "bf16")),
        "shifted, 1,000 x 64": (sheet(1000, 64) + 3.5, ("fp64", "fp32")),
    }
    return in_dtypes(kinds)


def in_dtypes(kinds: Mapping[str, tuple[Array, tuple[str, ...]]]) -> dict[str, Tensor]:
    return {
        f"{name}, {dtype}": torch.from_numpy(values).to(DTYPES[dtype])
        for name, (values, dtypes) in kinds.items()
        for dtype in dtypes
    }


def by_svd(matrix: Array) -> Array:
    return np.linalg.svd(matrix, compute_uv=False)


def values(method: singular.Method) -> Estimate:
    return lambda matrix: singular.singular_values(matrix, method)


def of_values(scalar: Callable[[Tensor], Tensor]) -> Estimate:
    """A scalar of the singular values as the recorder takes them."""
    return lambda matrix: scalar(recorded(matrix))


@cache
def recorded(matrix: Tensor) -> Tensor:
    return singular.singular_values(matrix)


def fitted(s: Array) -> tuple[float, float]:
    """Exponent and R^2 from SciPy's regression over the tenth to the last of the first quarter."""
    i = np.arange(10, len(s) // 4 + 1)
    found = scipy.stats.linregress(np.log(i), np.log(s[i - 1] ** 2))
    return -found.slope, found.rvalue**2


def energy_dimensions(s: Array, share: float) -> float:
    return float(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), share) + 1)


def cosines(x: Array) -> float:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return float((unit @ unit.T)[~np.eye(len(x), dtype=bool)].mean())


def published_isoscore(x: Array) -> float:
    """Rudman et al. (2022), step by step."""
    width = x.shape[1]
    _, _, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    variances = np.var((x - x.mean(0)) @ axes.T, axis=0, ddof=1)
    normalised = math.sqrt(width) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(normalised - 1) / math.sqrt(2 * (width - math.sqrt(width)))
    used = (width - defect**2 * (width - math.sqrt(width))) ** 2 / width**2
    return float((width * used - 1) / (width - 1))


def published_partition(x: Array) -> float:
    _, directions = np.linalg.eigh(x.T @ x)
    log_z = scipy.special.logsumexp(x @ np.hstack([directions, -directions]), axis=0)
    return float(np.exp(log_z.min() - log_z.max()))


def distance_ratios(x: Array) -> Array:
    """Sorted ln mu of distinct states, from all distances by differences."""
    points = np.unique(x, axis=0)
    away = scipy.spatial.distance.cdist(points, points)
    np.fill_diagonal(away, np.inf)
    first, second = np.partition(away, 1, axis=1)[:, :2].T
    return np.sort(np.log(second / first))


def likelihood(x: Array) -> float:
    log_mu = distance_ratios(x)
    return float((len(log_mu) - 1) / log_mu.sum())


def regression(x: Array) -> float:
    log_mu = distance_ratios(x)
    kept = int(0.9 * len(log_mu))
    survival = -np.log(1 - np.arange(1, kept + 1) / len(log_mu))
    return float(np.linalg.lstsq(log_mu[:kept, None], survival, rcond=None)[0][0])


def centred_kernels(x: Array) -> tuple[Array, Array]:
    left, right = (part - part.mean(0) for part in np.hsplit(x, [x.shape[1] // 2]))
    return left @ left.T, right @ right.T


def plain_cka(x: Array) -> float:
    k, l = centred_kernels(x)  # noqa: E741
    return float((k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum()))


def plain_unbiased_cka(x: Array) -> float:
    k, l = centred_kernels(x)  # noqa: E741
    n = len(x)
    for kernel in (k, l):
        np.fill_diagonal(kernel, 0)

    def hsic(a: Array, b: Array) -> float:
        total = (a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2))
        return float(total - 2 / (n - 2) * (a.sum(0) @ b.sum(0)))

    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two representations of the same tokens: one half of the dimensions and the other."""
    return x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]


def isoscore_by_batches(x: Tensor) -> Tensor:
    metric = geometry.Geometry(x.shape[1])
    for start in range(0, len(x), BATCH):
        metric.update(x[start : start + BATCH])
    return metric.compute()["isoscore"]


def cka_by_batches(x: Tensor) -> Tensor:
    left, right = halves(x)
    metric = similarity.LinearCKA(left.shape[1], right.shape[1])
    for start in range(0, len(x), BATCH):
        metric.update(left[start : start + BATCH], right[start : start + BATCH])
    return metric.compute()


SPECTRUM: dict[str, tuple[str, Reference, Estimate]] = {
    "singular values, gram": ("NumPy SVD", lambda s: s, values("gram")),
    "singular values, qr": ("NumPy SVD", lambda s: s, values("qr")),
    "singular values, svd": ("NumPy SVD", lambda s: s, values("svd")),
    "singular values, auto": ("NumPy SVD", lambda s: s, values("auto")),
    "effective_rank": (
        "SciPy entropy",
        lambda s: math.exp(scipy.stats.entropy(s)),
        of_values(spectrum.effective_rank),
    ),
    "energy_effective_rank": (
        "SciPy entropy",
        lambda s: math.exp(scipy.stats.entropy(s**2)),
        of_values(spectrum.energy_effective_rank),
    ),
    "singular_entropy": (
        "SciPy divergence",
        lambda s: scipy.stats.entropy(s, np.full(len(s), 1 / len(s))),
        of_values(spectrum.singular_entropy),
    ),
    "stable_rank": (
        "NumPy formula",
        lambda s: (s**2).sum() / s[0] ** 2,
        of_values(spectrum.stable_rank),
    ),
    "participation_ratio": (
        "NumPy formula",
        lambda s: (s**2).sum() ** 2 / (s**4).sum(),
        of_values(spectrum.participation_ratio),
    ),
    "numerical_rank, 1e-3": (
        "NumPy count",
        lambda s: float((s > 1e-3 * s[0]).sum()),
        of_values(lambda s: spectrum.numerical_rank(s, 1e-3)),
    ),
    "numerical_rank, 1e-6": (
        "NumPy count",
        lambda s: float((s > 1e-6 * s[0]).sum()),
        of_values(lambda s: spectrum.numerical_rank(s, 1e-6)),
    ),
    "energy_dimensions, 99 %": (
        "NumPy count",
        lambda s: energy_dimensions(s, 0.99),
        of_values(lambda s: spectrum.energy_dimensions(s, 0.99)),
    ),
    "power_law to d/4, exponent": (
        "SciPy regression",
        lambda s: fitted(s)[0],
        of_values(lambda s: spectrum.power_law(s, 10, len(s) // 4)[0]),
    ),
    "power_law to d/4, R^2": (
        "SciPy regression",
        lambda s: fitted(s)[1],
        of_values(lambda s: spectrum.power_law(s, 10, len(s) // 4)[1]),
    ),
    "residual_energy, rank 8": (
        "NumPy formula",
        lambda s: (s[8:] ** 2).sum() / (s**2).sum(),
        of_values(lambda s: spectrum.residual_energy(s, 8)),
    ),
    "condition_number": (
        "NumPy formula",
        lambda s: s[0] / s[-1],
        of_values(spectrum.condition_number),
    ),
}

STATES: dict[str, tuple[str, Reference, Estimate]] = {
    "anisotropy": ("all pairs", cosines, geometry.anisotropy),
    "centred_anisotropy": ("all pairs", lambda x: cosines(x - x.mean(0)), geometry.centred_anisotropy),
    "isoscore": ("published algorithm", published_isoscore, geometry.isoscore),
    "isoscore by batches": ("published algorithm", published_isoscore, isoscore_by_batches),
    "norm_spread": (
        "NumPy formula",
        lambda x: np.linalg.norm(x, axis=1).std() / np.linalg.norm(x, axis=1).mean(),
        geometry.norm_spread,
    ),
    "partition_isotropy": (
        "SciPy logsumexp",
        lambda x: published_partition(x / 100),
        lambda x: geometry.partition_isotropy(x.double() / 100),
    ),
    "two_nn, likelihood": (
        "SciPy distances",
        likelihood,
        lambda x: neighbours.two_nn(x).dimension,
    ),
    "two_nn, fit": ("SciPy distances", regression, lambda x: neighbours.two_nn(x).fit),
    "linear_cka": ("N x N kernels", plain_cka, lambda x: similarity.linear_cka(*halves(x))),
    "LinearCKA by batches": ("N x N kernels", plain_cka, cka_by_batches),
    "linear_cka, unbiased": (
        "N x N kernels",
        plain_unbiased_cka,
        lambda x: similarity.linear_cka(*halves(x), unbiased=True),
    ),
}


if __name__ == "__main__":
    main()
