import csv
import io
import re
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from tests.report.planted import GAIN, plant, saturates
from tests.report.test_html import Page

from rankbound.errors import InputError
from rankbound.report.study import render, study_report
from rankbound.report.study.cautions import cautions
from rankbound.report.study.evidence import POINTS, Evidence
from rankbound.report.study.sections import all_sections, heads
from rankbound.report.study.verdicts import loss_saturation
from rankbound.studies import load_study

COMMAND = "rankbound study report checkpoints/planted"
LINES = ("Linear", "Factorized(rank=8)", "ForwardFactorized(rank=8)")


@pytest.fixture(scope="module", autouse=True)
def few_turns():
    """Look for turns in few curves: the search is the analysis's own test, and slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rankbound.report.study.verdicts.MOST_CURVES", 6)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """24 runs: of the Linear heads the one of width 8 without weight decay saturates, no other does."""
    folder = tmp_path_factory.mktemp("studies") / "planted"
    return load_study(plant(folder, LINES[:2], (8, 32), (0.0, 0.1)))


@pytest.fixture(scope="module")
def page(study):
    return render(study, COMMAND)


@pytest.fixture
def changed(tmp_path):
    """`changed(change, ...)` -> a small study whose results table `change` was made to."""

    def made(change, *args, **kwargs):
        path = plant(tmp_path / "changed", *args, **{"records": 25} | kwargs)
        results = pd.read_parquet(path / "results.parquet")
        change(results).to_parquet(path / "results.parquet")
        return load_study(path)

    return made


def files(page):
    """Every table and figure's data by file name, as rows of texts."""
    found = re.findall(r'download="([^"]*)" href="data:text/csv;charset=utf-8,([^"]*)"', page)
    return {name: list(csv.DictReader(io.StringIO(unquote(text)))) for name, text in found}


def plain(page):
    """The page's words, without tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_is_one_file_that_loads_nothing(page):
    parsed = Page(page)
    outside = [r for r in parsed.references if not r.startswith(("#", "data:"))]
    assert outside == []
    assert not {"link", "img", "iframe", "object", "embed"} & set(parsed.tags)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert parsed.tags.count("script") == 1


def test_is_well_formed_and_its_figures_are_told(page):
    parsed = Page(page)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    used = {r[1:] for r in parsed.references if r.startswith("#")}
    assert used | set(re.findall(r"url\(#([^)]*)\)", page)) <= set(parsed.ids)
    labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', page)
    assert len(labels) == parsed.tags.count("svg") == parsed.tags.count("figcaption") >= 8
    assert all(len(label) > 40 for label in labels)
    assert page.count(COMMAND) == len(labels) + 1, "every figure says the command that draws it"


def test_says_the_same_of_the_same_study(page, study):
    assert render(load_study(study.path), COMMAND) == page
    assert str(study.path) not in page.replace(COMMAND, "")


def test_opens_with_question_extent_and_verdicts(page, study):
    words = plain(page)
    assert study.spec["question"] in words
    assert "24 runs finished: 8 settings (2 kinds of model at 2 widths), each with 3 random seeds" in words
    assert "Saturation: the validation loss rises late in training in 1 of 8 settings" in words
    assert "Linear at width 8, weight_decay 0" in words
    assert words.index("Saturation:") < words.index("Setting model.head")


def test_figures_data_are_the_tables_numbers(page, study):
    results = study.results
    means = results.groupby(["model.head", "hidden_size", "model.optimizer.weight_decay"])[
        "valid/loss"
    ].mean()
    rows = files(page)["loss-by-width.csv"]
    assert len(rows) == len(means)
    for row in rows:
        decay = float(row["panel"].removeprefix("weight_decay "))
        expected = means[row["line"], float(row["hidden_size"]), decay]
        assert float(row["loss"]) == pytest.approx(expected, rel=1e-5)


def test_cells_of_the_table_are_the_numbers_of_the_study(page, study):
    evidence = Evidence(study, COMMAND)
    shown = {cell.strip() for cell in Page(page).cells}
    for _, cell in evidence.cells.iterrows():
        assert f"{cell['loss']:.4f}" in shown
        assert f"{cell['half_width']:.4f}" in shown
    for loss in study.results["valid/loss"]:
        assert f"{loss:.4f}" in shown


def test_differences_are_those_that_were_planted(page):
    rows = files(page)["differences.csv"]
    for row in rows:
        width, decay = int(row["model.hidden_size"]), float(row["model.optimizer.weight_decay"])
        planted = GAIN["Linear"] - GAIN[row["variant"]] - 0.12 * saturates("Linear", width, decay)
        assert float(row["difference"]) == pytest.approx(planted, abs=0.015)
        assert row["reading"] == ("higher" if planted > 0 else "lower")


def test_only_the_planted_curve_rises_late(page, study):
    for row in files(page)["late-rise.csv"]:
        decay = float(row["panel"].removeprefix("weight_decay "))
        rises = saturates(row["line"], int(row["hidden_size"]), decay)
        assert (row["verdict"] == "late rise") == rises, row


def test_curves_are_thinned_and_end_where_the_runs_end(page):
    rows = pd.DataFrame(files(page)["learning-curves.csv"])
    counts = rows.groupby(["line", "panel", "hidden_size"]).size()
    assert counts.max() <= POINTS
    assert rows["step"].astype(int).max() == 4000


def test_curves_are_means_over_the_seeds_of_a_cell(study):
    evidence = Evidence(study, COMMAND)
    curves = evidence.loss_curves()
    one = curves[curves["cell"] == curves["cell"].iloc[0]].iloc[-1]
    runs = study.results.loc[study.results["cell"] == one["cell"], "run"]
    rows = study.curves.query("name == 'valid/loss' and step == @one.step")
    values = rows.loc[rows["run"].isin(runs), "value"]
    assert (one["mean"], one["low"], one["high"]) == (
        pytest.approx(values.mean()),
        values.min(),
        values.max(),
    )
    assert one["seeds"] == 3


def test_a_mixtures_spectral_scalar_is_the_mean_of_its_components(tmp_path):
    mixture = "MixtureOfSoftmaxes(components=4)"
    study = load_study(plant(tmp_path / "m", [mixture], (8,), seeds=1, records=5))
    found = Evidence(study, COMMAND).head_series("effective_rank")
    names = [f"head/component_{k}/effective_rank" for k in range(4)]
    expected = study.curves[study.curves["name"].isin(names)].groupby("step")["value"].mean()
    assert found.set_index("step")["value"].tolist() == pytest.approx(expected.tolist())


def test_writes_whole_or_not_at_all(study, tmp_path, monkeypatch):
    output = tmp_path / "new" / "report.html"
    monkeypatch.setattr("rankbound.report.study.page.render", lambda *_: "page")
    study_report(study, output)
    assert output.read_text() == "page"
    monkeypatch.setattr("rankbound.report.study.page.render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        study_report(study, output)
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]
    assert output.read_text() == "page"
    with pytest.raises(InputError, match="is a folder"):
        study_report(study, tmp_path)


@pytest.mark.filterwarnings("error")
def test_a_study_without_a_run_says_so(changed):
    words = plain(render(changed(lambda results: results.iloc[:0], seeds=1, widths=(8,)), COMMAND))
    assert "No run has been recorded yet." in words
    assert "Verdict" not in words


@pytest.mark.filterwarnings("error")
def test_a_study_that_has_only_begun_is_shown_as_far_as_it_is(changed):
    def begun(results):
        nothing = ["valid/loss", "best/valid/loss", "seconds"]
        return results.assign(state="running", **dict.fromkeys(nothing, np.nan))

    page = render(changed(begun, seeds=1, widths=(8,)), COMMAND)
    assert "0 of 2 runs finished" in plain(page)
    assert "Not all runs are finished (2 running)" in plain(page)
    assert "learning-curves.csv" in files(page)
    assert "loss-by-width.csv" not in files(page)


@pytest.mark.filterwarnings("error")
def test_a_single_run_is_a_page_without_claims(changed):
    page = render(changed(lambda results: results.iloc[:1], seeds=1, widths=(8,)), COMMAND)
    words = plain(page)
    assert "One seed a setting: one seed cannot separate settings from luck." in words
    assert "there is nothing to compare it with" in words
    assert Page(page).open == []


def test_heads_of_which_no_two_can_be_paired_are_not_compared(changed):
    def unpaired(results):
        narrow = (results["model.head"] == "Linear") & (results["model.hidden_size"] == 8)
        wide = (results["model.head"] != "Linear") & (results["model.hidden_size"] == 32)
        return results[narrow | wide]

    page = render(changed(unpaired), COMMAND)
    assert "No run has finished yet that can be paired with one of Linear." in plain(page)
    assert "gaps.csv" not in files(page)


def test_a_law_is_fitted_where_the_widths_are_there_and_elsewhere_they_are_named(changed):
    def fewer(results):
        return results[(results["model.head"] == "Linear") | (results["model.hidden_size"] < 32)]

    page = render(changed(fewer, LINES[:2], (8, 16, 32, 64)), COMMAND)
    rows = files(page)["extrapolation.csv"]
    assert {(row["line"], row["hidden_size"]) for row in rows} == {("Linear", "8")}
    assert (
        "No law for Factorized(rank=8): its runs are of widths 8 and 16; a law is fitted to widths 16, 32 "
        "and 64 and read at narrower ones." in plain(page)
    )


@pytest.mark.filterwarnings("error")
def test_runs_that_diverged_or_failed_are_in_no_mean_and_are_named(changed):
    def broken(results):
        losses = results["valid/loss"].where(results["run"] != results["run"][0], np.nan)
        states = ["failed" if i == 1 else "finished" for i in range(len(results))]
        problems = ["out of memory" if i == 1 else "" for i in range(len(results))]
        return results.assign(**{"valid/loss": losses}, state=states, problem=problems)

    study = changed(broken, widths=(8, 32))
    first, second = study.results["run"][:2]
    evidence = Evidence(study, COMMAND)
    said = " ".join(cautions(evidence))
    assert f"1 run finished without a finite loss ({first})" in said
    assert f"Failed: {second} (out of memory)." in said
    assert "1 setting of 4 with one finished seed only" in said
    assert evidence.cells["seeds"].tolist() == [1, 3, 3, 3]
    assert "NaN" not in plain(render(study, COMMAND))


def test_curves_with_nan_are_drawn_and_tested_where_they_are_finite(tmp_path):
    path = plant(tmp_path / "nan", ["Linear"], (8,), (0.0,))
    curves = pd.read_parquet(path / "curves.parquet")
    hole = (curves["run"] == curves["run"][0]) & (curves["step"].between(2, 20))
    curves.assign(value=curves["value"].where(~hole, np.nan)).to_parquet(path / "curves.parquet")
    evidence = Evidence(load_study(path), COMMAND)
    found, unfit = loss_saturation(evidence)
    assert unfit == {}
    assert [tested.verdict for tested in found.values()] == ["late rise"]
    assert np.isfinite(evidence.loss_curves()["mean"]).all()


def test_unmatched_budgets_and_vocabularies_are_said(changed):
    def unequal(results):
        linear = results["model.head"] == "Linear"
        return results.assign(
            parameters=results["parameters"] * np.where(linear, 1, 1.5),
            tokens=results["tokens"] * np.where(linear, 1, 2),
            vocab_size=np.where(results["hidden_size"] == 8, 2048, 4096),
            learning_rate=0.01,
        )

    said = " ".join(cautions(Evidence(changed(unequal), COMMAND)))
    assert "do not have equal parameters: at most 1.50 times" in said
    assert "do not have equal tokens: at most 2.00 times" in said
    assert "Vocabularies differ (2,048 and 4,096 tokens)" in said
    assert "Every run uses the learning rate 0.01: it was not tuned" in said


def test_tuned_rates_are_said_with_the_rule(changed):
    study = changed(lambda results: results, seeds=1, widths=(8,))
    study.spec["rates"] = {"grid": [0.01, 0.02], "seed": 7}
    assert "best of a grid by its final validation loss at seed 7" in " ".join(
        cautions(Evidence(study, COMMAND))
    )


def test_hostile_names_are_text(changed):
    evil = "</script><b>$x_1$ & \"'"

    def hostile(results):
        results["model.head"] = results["model.head"].replace("Linear", evil)
        return results.assign(problem=evil, state=["failed"] + ["finished"] * (len(results) - 1))

    study = changed(hostile, seeds=2, widths=(8,))
    study.spec.update(name="<i>study", question=evil)
    page = render(study, f"rankbound study report '{evil}'")
    parsed = Page(page)
    assert not {"b", "i"} & set(parsed.tags)
    assert parsed.tags.count("script") == 1
    assert parsed.open == []
    assert "&lt;i&gt;study" in page
    assert files(page)["gaps.csv"][0]["line"] in (evil, "Factorized(rank=8)")


def test_a_study_without_heads_has_its_first_axis_for_lines(changed):
    study = changed(lambda results: results.drop(columns="model.head"), ["Linear"], decays=(0.0, 0.1))
    del study.spec["axes"]["model.head"]
    evidence = Evidence(study, COMMAND)
    assert evidence.lines == ["weight_decay 0", "weight_decay 0.1"]
    assert evidence.panels == [""]
    part = heads.SECTION.build(evidence)
    assert part.verdicts[0].startswith("Against weight_decay = 0, the loss is lower in ")


def test_excess_over_a_known_language_becomes_rank_gap_and_remainder(changed):
    study = changed(lambda results: results.assign(excess_loss=results["valid/loss"] - 3))
    for run in study.results["run"]:
        path = study.path / run / "config.yaml"
        path.write_text(path.read_text().replace("derived:\n", "derived:\n  entropy: 3.0\n  floor: 0.25\n"))
    data = heads.SECTION.build(Evidence(study, COMMAND)).drawings[0].data
    assert len(data) == 4
    assert (data["rank_gap"] == 0.25).all()
    assert data["remaining_gap"].tolist() == pytest.approx((data["excess_loss"] - 0.25).tolist())


def test_sections_are_found_and_each_has_its_place():
    sections = all_sections()
    assert len({section.place for section in sections}) == len(sections) >= 10
    assert len({section.title for section in sections}) == len(sections)


def test_needs_no_torch():
    code = (
        "import sys, rankbound.report.study;"
        "heavy = {'torch', 'lightning', 'matplotlib.pyplot'} & set(sys.modules);"
        "sys.exit(f'loads {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
