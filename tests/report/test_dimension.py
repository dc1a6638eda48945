"""`rankbound dimension`: table, figure and files; wrong input in one line."""

import pandas as pd
import pytest

from rankbound.analysis.dimension import CURVES
from rankbound.cli import main
from rankbound.report.dimension import figure, write


@pytest.fixture(scope="module")
def written(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("dimension") / "new" / "small.svg"
    main(["dimension", str(corpus), "--order", "2..3", "--resamples", "2", "--output", str(output)])
    return output


def test_the_table_has_a_row_a_curve_and_the_figure_stands_alone(written, capsys, corpus):
    table = pd.read_csv(written.with_suffix(".csv"))
    assert table.groupby("order")["curve"].agg(list).tolist() == [list(CURVES)] * 2
    assert (table["n90"] <= table["n99"]).all()
    assert table.loc[table["curve"] == "unbiased", "n90_half_width"].notna().all()
    assert (table["w_error_0.6"] <= table["w_error_0.3"]).all()
    svg = written.read_text()
    assert svg.startswith("<?xml")
    assert "bracket of the truth" in svg
    main(
        [
            "dimension",
            str(corpus),
            "--order",
            "2",
            "--resamples",
            "0",
            "--output",
            str(written.parent / "b.svg"),
        ]
    )
    printed = capsys.readouterr().out
    assert all(word in printed for word in (*CURVES, "n90", "contexts"))
    assert str(written.parent / "b.svg") in printed


def test_points_draw_the_same_figure_again(written, tmp_path):
    curves = pd.read_csv(written.with_name("small-curves.csv"))
    assert {1, 2, 4, 8, 16, 32, 64, 128, 256, 300} <= set(curves["width"])
    write(tmp_path / "again.svg", pd.read_csv(written.with_suffix(".csv")), curves)
    assert (tmp_path / "again.svg").read_text() == written.read_text()
    assert len(figure(curves).axes) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--order 1", "order is 1: give one from 2 to 5"),
        ("--order 6", "order is 6: give one from 2 to 5"),
        ("--order 2..6", "order is 2..6: give one from 2 to 5"),
        ("--order 4..3", "order is 4..3: give one"),
        ("--order two", "order is two: give one"),
        ("--below [1.5]", "W-errors lie between 0 and 1"),
        ("--resamples 1", "an interval needs 2 at least"),
        ("--weighting counts", "must be one of count, context, not 'counts'"),
        ("--max-tokens 3", "has 3 tokens, too few for order 5"),
        ("--output figure.png", "is no .svg file"),
    ],
)
def test_wrong_settings_are_one_line(arguments, message, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    order = [] if "--order" in arguments else ["--order", "5"]
    with pytest.raises(SystemExit) as ended:
        main(["dimension", str(corpus), *order, *arguments.split()])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_what_is_no_corpus_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["dimension", str(tmp_path)])
    assert "is not a prepared corpus" in capsys.readouterr().err
