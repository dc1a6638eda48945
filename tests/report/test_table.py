import io
import json
import re

import pandas as pd
import pytest
from rich.console import Console

from rankbound import load_run
from rankbound.report.table import columns, comparison, identifiers, print_table

MIXTURE = "MixtureOfSoftmaxes(components=4)"


def printed(frame, width=120, terminal=True):
    output = io.StringIO()
    print_table(frame, Console(file=output, width=width, force_terminal=terminal, no_color=True))
    return re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())


def test_values_are_those_of_the_run_folder(study):
    frame = comparison(study).set_index("run")
    for run in study:
        row = frame.loc[run.path.name]
        metrics = pd.read_csv(run.path / "metrics.csv")
        last = metrics.groupby("name")["value"].last()
        summary = json.loads((run.path / "summary.json").read_text())
        matrices = last[last.index.str.match(r"head/.*/effective_rank")]
        assert row["valid_loss"] == summary["valid/loss"] == last["valid/loss"]
        assert row["bits_per_byte"] == last["valid/bits_per_byte"]
        assert row["anisotropy"] == last["hidden/head_input/anisotropy"]
        assert row["effective_rank"] == pytest.approx(matrices.mean(), rel=1e-12)
        assert row["tokens"] == summary["tokens"] == metrics["tokens"].max()
        assert row["tokens_per_second"] == last["tokens_per_second"]
        assert row["peak_memory_bytes"] == last["peak_memory_bytes"]
        parts = run.config["derived"]["parameters"]
        assert {part: row[f"parameters_{part}"] for part in parts} == parts


def test_sorted_by_hidden_size_then_head(study):
    frame = comparison(study[::-1])
    heads = ["Factorized(rank=16)", "Linear", MIXTURE]
    assert frame["hidden_size"].tolist() == [32] * 3 + [128] * 3
    assert frame["head"].tolist() == heads * 2


def test_an_unfinished_run_shows_its_last_rows(make_run):
    path = make_run("killed", stop_at=137)
    with (path / "metrics.csv").open("a") as file:
        file.write(f"130,{130 * 2048},train/loss,6.0\n")
    run = load_run(path)
    row = comparison([run]).iloc[0]
    assert row["progress"] == "step 130 of 300, not finished"
    assert row["valid_loss"] == run.series("valid/loss")[128]
    assert row["tokens"] == 128 * 2048, "tokens belong to the loss that is shown"
    assert not row["finished"]


def test_what_was_not_recorded_is_a_dash(make_run):
    frame = comparison([load_run(make_run("bare", spectra=False))])
    assert frame["effective_rank"].isna().all()
    assert "\N{EN DASH}" in printed(frame)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_fits_the_terminal_and_says_what_it_leaves_out(study, width):
    text = printed(comparison(study), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "MixtureOfSoftmaxes" in text
    assert "6.2" in text
    assert ("Not shown for want of room" in text) == (width < 120)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_every_column_fits_120_columns_of_a_log(study):
    text = printed(comparison(study), width=80, terminal=False)
    assert "Not shown" not in text
    for column in columns(comparison(study)):
        assert column.header.split("\n")[-1] in text


def test_seeds_get_a_column_and_a_second_table(make_run):
    runs = [load_run(make_run(f"linear-{s}", seed=s)) for s in (1, 2, 3)]
    frame = comparison(runs)
    assert identifiers(frame) == ["seed"]
    text = printed(frame)
    assert "Over seeds" in text
    assert "one seed cannot" not in text


def test_twins_are_told_apart_by_their_folder(make_run, study):
    twins = [load_run(make_run(name, learning_rate=rate)) for name, rate in (("a", 1), ("b", 2))]
    assert identifiers(comparison(twins)) == ["run"]
    assert identifiers(comparison(study)) == []


def test_markup_in_a_head_is_printed_as_it_is(make_run):
    assert "[bold]Odd" in printed(comparison([load_run(make_run("x", "[bold]Odd"))]))
