"""Which runs a study asks for: ids that last, learning rates chosen, levels that cannot be."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankbound.errors import InputError
from rankbound.studies import Plan
from rankbound.study.grid import cells
from rankbound.study.plan import best_rate, make_planner, next_rates
from rankbound.study.spec import LENGTHS, Rates, fit_arguments, read_spec
from rankbound.training.resolve import resolve

BASE = """
base:
  data: {corpus: CORPUS, window: 16, batch_size: 4}
  model: {num_hidden_layers: 1, num_attention_heads: 2}
tokens: 640
"""


@pytest.fixture
def plan(tmp_path, corpus):
    def made(content, failed=()) -> Plan:
        file = tmp_path / "s.yaml"
        file.write_text(BASE.replace("CORPUS", str(corpus)) + content)
        spec = read_spec(file)
        wanted = []
        for cell in cells(spec)[0]:
            length = {name: cell.settings[name] for name in LENGTHS[1:] if name in cell.settings}
            told = {name: value for name, value in cell.settings.items() if name not in length}
            wanted.append((fit_arguments(told), length))
        return make_planner(spec, tmp_path, *resolve(wanted)).plan(file, "0", failed)

    return made


def names(plan):
    return {run.run for run in plan.runs}


def test_an_axis_added_later_asks_for_new_runs_only(plan):
    before = plan("axes: {model.hidden_size: [8, 16]}\nseeds: [1, 2]")
    after = plan(
        "axes: {model.hidden_size: [8, 16], model.optimizer.weight_decay: [0.1, 0]}\nseeds: [1, 2]"
    )
    assert len(names(before)) == 4
    assert len(names(after)) == 8
    assert names(before) < names(after)


def test_the_same_settings_said_otherwise_are_the_same_run(plan):
    said = [
        "axes: {model.head: [Linear]}",
        "axes: {model.head: [{class_path: rankbound.heads.Linear, init_args: {bias: false}}]}",
        "axes: {h: {x: {model.head.bias: false}}}",
        "axes: {model.head: [Linear], model.optimizer.weight_decay: [1e-1]}\nmatch: none",
        "axes: {trainer.devices: [1], data.num_workers: [2]}",  # of the machine
    ]
    assert len({frozenset(names(plan(content))) for content in said}) == 1
    assert names(plan("axes: {model.head.bias: [true]}")) != names(plan(said[0]))


def test_costliest_first_and_paired_by_seed(plan):
    made = plan("axes: {model.hidden_size: [8, 32, 16]}\nseeds: [3, 5]")
    assert [run.resolved.hidden_size for run in made.runs] == [32, 32, 16, 16, 8, 8]
    assert len({run.cell for run in made.runs}) == 3
    for run in made.runs:
        assert {f"--seed_everything={run.seed}", f"--data.seed={run.seed}"} < set(run.arguments)


def test_an_axis_that_changes_nothing_and_cells_that_are_the_same_are_named(plan):
    idle = plan("axes: {model.hidden_size: [8, 16], model.dropout: [0, 0.0]}")
    assert len(idle.runs) == 2
    assert any("axis model.dropout changes nothing" in remark for remark in idle.remarks)
    twins = plan("axes: {v: {a: {model.hidden_size: 8}, b: {}, c: {model.hidden_size: 8}}}")
    assert len(twins.runs) == 2
    assert any("v c has the same settings as v a" in remark for remark in twins.remarks)


def test_a_level_that_cannot_be_is_left_out_and_named(plan):
    made = plan("axes: {model.hidden_size: [8, 9], model.head: [Linear, Linaer]}")
    assert [run.levels for run in made.runs] == [{"model.hidden_size": 8, "model.head": "Linear"}]
    assert any("did you mean Linear?" in remark for remark in made.remarks)
    assert any("9 is not divisible by num_attention_heads 2" in remark for remark in made.remarks)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            "{model.hiden_size: [8, 16]}",
            "there is no setting model.hiden_size; did you mean model.hidden_size?",
        ),
        ("{model.head.rnk: [8]}", "Linear has no setting rnk"),
        ("{tokens: [-1]}", "tokens is -1; it must be a positive number"),
        ("{tokens: [many]}", "tokens is 'many'"),
        ("{data.corpus: [nowhere]}", "nowhere is not a prepared corpus"),
        ("{trainer.max_epochs: [3]}", "set model.total_steps"),
    ],
)
def test_a_study_of_which_nothing_can_be_says_why(plan, axes, message):
    with pytest.raises(InputError) as wrong:
        plan(f"axes: {axes}")
    assert message in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_tokens_a_parameter_follow_the_matched_size(plan):
    content = """
tokens_per_parameter: 3
match: parameters
axes: {model.head: [Linear, {class_path: MixtureOfSoftmaxes, init_args: {components: 2}}]}
"""
    for run in plan(content).runs:
        counts = run.resolved.parameters
        assert 0 <= run.resolved.tokens - 3 * counts["total"] < 64
        assert sum(counts[part] for part in ("head", "embedding", "body")) == counts["total"]
    totals = [run.resolved.parameters["total"] for run in plan(content).runs]
    assert max(totals) / min(totals) < 1.01


def write_loss(folder, run, loss):
    (folder / run.run).mkdir()
    (folder / run.run / "summary.json").write_text(json.dumps({"valid/loss": loss}))


def test_rates_go_on_until_the_best_is_inside_then_the_seeds_train_at_it(plan, tmp_path):
    content = "rates: {grid: [0.01, 0.02], seed: 0}\nseeds: [1, 2]"
    told = {0.01: 5.0, 0.02: 4.0, 0.04: 4.5}
    for wanted in ([0.01, 0.02], [0.01, 0.02, 0.04]):
        made = plan(content)
        assert made.of("study") == []
        rates = {run.resolved.settings["model.optimizer.learning_rate"]: run for run in made.runs}
        assert sorted(rates) == wanted
        for rate, run in rates.items():
            if not (tmp_path / "s" / run.run).exists():
                (tmp_path / "s").mkdir(exist_ok=True)
                write_loss(tmp_path / "s", run, told[rate])
    study = plan(content).of("study")
    assert [run.seed for run in study] == [1, 2]
    assert all("--model.optimizer.learning_rate=0.02" in run.arguments for run in study)
    chosen = plan("axes: {model.optimizer.learning_rate: [0.02]}\nseeds: [1, 2]")
    assert names(chosen) == {run.run for run in study}


def test_a_rate_that_failed_is_none_to_choose(plan, tmp_path):
    content = "rates: {grid: [0.01, 0.02], extend: 0}\nseeds: [1]"
    good, bad = sorted(
        plan(content).runs, key=lambda run: run.resolved.settings["model.optimizer.learning_rate"]
    )
    (tmp_path / "s").mkdir()
    write_loss(tmp_path / "s", good, 9.0)
    assert plan(content).of("study") == []
    assert "--model.optimizer.learning_rate=0.01" in plan(content, [bad.run]).of("study")[0].arguments
    assert plan(content, [good.run, bad.run]).of("study") == []


@given(st.floats(-14, 4), st.integers(0, 4), st.integers(1, 4))
def test_the_search_ends_at_the_best_of_a_valley_or_at_its_bound(valley, extend, size):
    rates = Rates(tuple(2.0**-k for k in range(5, 5 + size))[::-1], extend=extend)

    def loss(rate):
        return abs(math.log2(rate) - valley)

    losses = {rate: loss(rate) for rate in rates.grid}
    while more := next_rates(rates, losses):
        losses |= {rate: loss(rate) for rate in more}
    best = best_rate(losses)
    outside = sum(rate < min(rates.grid) or rate > max(rates.grid) for rate in losses)
    assert outside <= 2 * extend
    inside = min(losses) < best < max(losses)
    assert inside or outside >= extend
    assert loss(best) == min(losses.values())
