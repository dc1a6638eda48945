"""What docs/results/ranks.md and retention.md claim of rank and signal, where the answer is known."""

import sys
from pathlib import Path

import pytest
import torch

from rankbound.heads import Linear
from rankbound.metrics import linear_retention, log_prob_spectrum, numerical_rank
from rankbound.model import GPT
from rankbound.training.language_model import LanguageModel

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import bottleneck_curves as curves
import bottleneck_language as language
import bottleneck_matrix as matrix
import bottleneck_ranks as ranks


@pytest.mark.parametrize("norm", ["layernorm", "layernorm_without_shift", "rmsnorm"])
@pytest.mark.parametrize("centred", [False, True])
def test_theory_is_the_rank_of_random_models(norm, centred):
    torch.manual_seed(0)
    model = LanguageModel(GPT(96, 12, num_hidden_layers=1, norm=norm), Linear).double()
    for parameter in model.body.final_norm.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        spectrum = log_prob_spectrum(model(torch.randint(96, (8, 16))).flatten(0, 1), centred)
    assert numerical_rank(spectrum, 1e-10) == matrix.theory(12, norm, centred)


def distributions(rows=6, vocab_size=9):
    generator = torch.Generator().manual_seed(0)
    shape = (2, rows, vocab_size)
    return torch.randn(shape, generator=generator, dtype=torch.float64).log_softmax(2)


def test_the_signals_share_is_of_the_expectation_over_drawn_tokens():
    model, truth = distributions()
    excess, share = language.against_truth(model, truth)
    p, p_star = model.exp(), truth.exp()
    drawn = torch.eye(9, dtype=torch.float64)
    energy = sum((p_star[:, y] * (p - drawn[y]).square().sum(1)).sum() for y in range(9))
    assert share == pytest.approx(float((p - p_star).square().sum() / energy))
    cross_entropy = -(p_star * model).sum(1).mean()
    assert excess == pytest.approx(float(cross_entropy - torch.special.entr(p_star).sum(1).mean()))
    assert language.against_truth(truth, truth) == pytest.approx((0.0, 0.0), abs=1e-15)


def test_the_rows_error_is_what_resampling_shows():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 4, generator=generator)
    found = linear_retention(
        torch.randn(400, 4, generator=generator), weight, torch.randint(40, (400,), generator=generator)
    )
    rows = torch.randint(400, (2000, 400), generator=generator)
    resampled = found.kept[rows].sum(1) / found.total[rows].sum(1)
    assert language.row_error(found) == pytest.approx(float(resampled.std()), rel=0.08)


def test_texts_of_seeds_and_of_the_probe_have_no_batch_in_common():
    steps = {
        seed: range(seed * language.SEED_STRIDE + 1, seed * language.SEED_STRIDE + language.STEPS + 1)
        for seed in range(4)
    }
    batches = [step for run in steps.values() for step in run]
    assert len({*batches, language.PROBE_STEP}) == len(batches) + 1


def test_a_difference_is_told_only_where_the_adjusted_p_says_so():
    values = ([1.001, 1.0, 0.999], [-1.001, -1.0, -0.999], [1.45, 1.33, 0.75], [1.0, -1.0, 0.1])
    found = curves.adjusted([curves.Difference("corpus", "a less b", by_seed) for by_seed in values])
    assert found[2].p < 0.05 < found[2].adjusted
    assert [difference.reads for difference in found] == [
        "higher",
        "lower",
        "could not tell",
        "could not tell",
    ]


def test_a_wrapped_list_has_as_many_items_as_lines():
    lines = ["p - y " * 40, "width + 1 " * 40]
    wrapped = ranks.bullets(lines)
    assert all(len(line) <= 108 for line in wrapped.splitlines())
    assert [line[:2] for line in wrapped.splitlines() if line.lstrip()[0] in "-+"] == ["- ", "- "]
    assert " ".join(wrapped.split()) == " ".join(f"- {line}" for line in lines).replace("  ", " ").strip()


def test_values_are_shown_with_their_range_where_it_shows():
    assert ranks.spread([65.0, 65.0, 65.0], "{:.0f}".format) == "65"
    assert ranks.spread([64.0, 65.0, 66.0], "{:.0f}".format) == "65 (64, 66)"
    assert (
        ranks.dates(["2026-11-20T23:00:00+00:00", "2026-11-21T01:00:00"])
        == "20 November 2026 to 21 November 2026"
    )
