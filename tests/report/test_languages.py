"""Runs on a language in the comparison: excess loss, rank gap, and the entropy as a line."""

import json

import numpy as np
import pytest
import yaml

from rankbound import load_run
from rankbound.report import figures
from rankbound.report.html import render
from rankbound.report.style import to_svg
from rankbound.report.table import columns, comparison


def texts(figure):
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))


@pytest.fixture
def on_language(make_run):
    """Two runs on one language; only the first's floor is known."""

    def made(name, width, **known):
        path = make_run(name, hidden_size=width)
        config = yaml.safe_load((path / "config.yaml").read_text())
        config["derived"] |= {"entropy": 3.9, "true_loss": 3.92, **known}
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        rows = (path / "metrics.csv").read_text().splitlines(keepends=True)
        (path / "metrics.csv").write_text("".join(r for r in rows if "bits_per_byte" not in r))
        summary = json.loads((path / "summary.json").read_text())
        del summary["valid/bits_per_byte"]
        (path / "summary.json").write_text(json.dumps(summary))
        return load_run(path)

    return [made("narrow", 16, floor=0.37), made("wide", 32)]


def test_excess_is_measured_from_what_the_language_scores(on_language):
    frame = comparison(on_language)
    losses = [run.summary["valid/loss"] for run in on_language]
    assert frame["excess_loss"].tolist() == pytest.approx([loss - 3.92 for loss in losses])
    assert frame["rank_gap"].tolist() == pytest.approx([0.37, np.nan], nan_ok=True)
    shown = [column.name for column in columns(frame)]
    assert shown[:3] == ["valid_loss", "excess_loss", "rank_gap"]
    assert "bits_per_byte" not in shown


def test_without_the_true_loss_excess_is_measured_from_the_entropy(on_language):
    for run in on_language:
        del run.config["derived"]["true_loss"]
    losses = [run.summary["valid/loss"] for run in on_language]
    assert comparison(on_language)["excess_loss"].tolist() == pytest.approx([loss - 3.9 for loss in losses])


def test_text_has_no_such_columns(study):
    frame = comparison(study)
    assert frame["excess_loss"].isna().all()
    assert not {"excess_loss", "rank_gap"} & {column.name for column in columns(frame)}
    assert "entropy 3.90" not in texts(figures.loss_curves(study))


def test_every_figure_of_losses_has_the_entropy_as_a_line(on_language):
    for draw in (figures.loss_curves, figures.loss_by_width):
        figure = draw(on_language)
        assert "entropy 3.90" in texts(figure).splitlines()
        axes = figure.axes[0]
        assert [3.9, 3.9] in [list(line.get_ydata()) for line in axes.lines]
    floors = [line for line in figure.axes[0].lines if line.get_marker() == "_"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in floors] == [(16, pytest.approx(4.27))]


def test_languages_are_compared_in_nats_where_there_are_no_bytes(on_language):
    on_language[1].config["data"]["corpus_sha256"] = "another"
    assert "nats per token" in texts(figures.loss_by_width(on_language))
    assert to_svg(figures.loss_curves(on_language), "name").startswith("<svg")


def test_the_page_heads_the_columns(on_language):
    page = render(on_language, "rankbound compare narrow wide")
    assert "excess loss" in page
    assert "rank gap" in page
