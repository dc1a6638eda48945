import pandas as pd
import pytest
import yaml

from rankbound import InputError, load_run
from rankbound.report import facts


def test_a_mixture_is_the_mean_over_its_components(make_run):
    run = load_run(make_run("mixture", "MixtureOfSoftmaxes(components=4)"))
    series = facts.head_series(run, "effective_rank")
    for step, value in series.items():
        components = [run.series(f"head/component_{k}/effective_rank")[step] for k in range(4)]
        assert value == pytest.approx(sum(components) / 4, rel=1e-12)
    assert series.index[0] == 0


def test_a_step_with_some_components_only_is_left_out(make_run):
    path = make_run("killed", "MixtureOfSoftmaxes(components=4)", stop_at=64)
    with (path / "metrics.csv").open("a") as file:
        file.write("128,262144,head/component_0/effective_rank,3.0\n")
    assert facts.head_series(load_run(path), "effective_rank").index[-1] == 64


def test_a_value_that_turned_nan_is_not_replaced_by_an_older_one(make_run):
    path = make_run("diverged", stop_at=64)
    with (path / "metrics.csv").open("a") as file:
        file.write("128,262144,head/weight/effective_rank,nan\n")
    assert facts.head_series(load_run(path), "effective_rank").isna().tolist()[-2:] == [False, True]


def test_cells_differ_by_design_not_by_seed_or_place(make_run):
    first, second, other = (
        load_run(make_run("a", seed=1)),
        load_run(make_run("b", seed=2)),
        load_run(make_run("c", seed=1, learning_rate=0.01)),
    )
    assert facts.cells([first, second, other]) == [0, 0, 1]


def test_order_is_width_then_head_with_numbers_by_size(make_run):
    heads = [("Factorized(rank=16)", 64), ("Factorized(rank=8)", 64), ("Linear", 32)]
    runs = [load_run(make_run(f"r{k}", *head)) for k, head in enumerate(heads)]
    ordered = [(facts.head(run), facts.width(run)) for run in sorted(runs, key=facts.order)]
    assert ordered == [("Linear", 32), ("Factorized(rank=8)", 64), ("Factorized(rank=16)", 64)]


def test_layers_in_the_order_of_the_model(make_run):
    run = load_run(make_run("deep", hidden_size=128))
    assert list(facts.layers(run, "anisotropy")) == ["0", "1", "2", "3", "4", "head_input"]


def test_names_tell_runs_apart(make_run):
    runs = [load_run(make_run(name)) for name in ("study-a/linear", "study-b/linear")]
    assert facts.names(runs) == ["study-a/linear", "study-b/linear"]
    assert facts.names(runs[:1]) == ["linear"]


def test_a_missing_setting_is_named(make_run):
    path = make_run("foreign")
    (path / "config.yaml").write_text(yaml.safe_dump({"model": {"hidden_size": 32}}))
    with pytest.raises(InputError, match=r"config.yaml has no derived.head"):
        facts.head(load_run(path))


def test_a_class_with_arguments_is_one_setting():
    settings = {"model": {"head": {"class_path": "a.b.Cap", "init_args": {"cap": 30.0}}, "bias": None}}
    assert facts.flat(settings) == {"model.head": "Cap(cap=30.0)", "model.bias": "null"}


def test_a_head_with_other_matrices_is_shown_by_the_one_that_reads():
    assert facts.shown_matrices(["reads", "teaches", "reads", "teaches"]) == ["reads"]
    assert facts.shown_matrices(["component_0", "component_1"]) == ["component_0", "component_1"]
    assert facts.shown_matrices([]) == []


def test_the_series_of_a_head_with_two_matrices_is_that_of_the_first(make_run):
    path = make_run("two", "Linear")
    before = facts.head_series(load_run(path), "effective_rank")
    with (path / "metrics.csv").open("a") as file:
        file.writelines(f"{step},0,head/teaches/effective_rank,3.0\n" for step in before.index)
    pd.testing.assert_series_equal(facts.head_series(load_run(path), "effective_rank"), before)
