import re
from html.parser import HTMLParser

import pytest

from rankbound import load_run
from rankbound.report.html import SECTIONS, render
from rankbound.report.table import comparison

COMMAND = "rankbound compare checkpoints/demo --output report.html"
VOID = {"meta", "wbr", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags, ids, and whether every element that opens also closes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.references, self.open, self.cells = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.references.append(value)
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def page(study):
    return render(study, COMMAND)


def test_loads_nothing_and_runs_nothing(page):
    parsed = Page(page)
    assert all(reference.startswith("#") for reference in parsed.references)
    assert "<metadata" not in page, "matplotlib writes the date there"
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(parsed.tags)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    urls = set(re.findall(r"https?://[^\"'\s<>]+", page))
    assert urls <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }  # names, not loads


def test_is_well_formed_and_its_figures_do_not_clash(page):
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.tags.count("svg") == len(SECTIONS) == parsed.tags.count("figcaption")
    assert len(parsed.ids) == len(set(parsed.ids))
    used = {r[1:] for r in parsed.references} | set(re.findall(r"url\(#([^)]*)\)", page))
    assert used <= set(parsed.ids)


def test_table_holds_the_numbers_of_the_comparison(page, study):
    cells = [cell.strip() for cell in Page(page).cells]
    for _, row in comparison(study).iterrows():
        assert f"{row['valid_loss']:.3f}" in cells
        assert f"{row['bits_per_byte']:.3f}" in cells
        assert f"{row['effective_rank']:.1f}" in cells
    assert page.count('class="wins"') == 2


def test_same_bytes_for_the_same_runs(page, study):
    again = [load_run(run.path) for run in reversed(study)]
    assert render(again, COMMAND) == page


def test_small_enough_to_mail(page):
    assert len(page) < 1e6


def test_provenance_is_complete(page, study):
    for run in study:
        assert run.path.name in page
        assert run.environment["command"] in page
    assert COMMAND in page
    for fact in ("2.13.0", "2.6.6", "0123abc", study[0].config["data"]["corpus_sha256"]):
        assert fact in page
    assert "model.hidden_size" in page
    assert str(study[0].path.parent) not in page, "where the folders lie is no fact about the runs"


def test_names_are_escaped(make_run):
    runs = [
        load_run(make_run("<b>bold & co", "Cap(<i>)", stop_at=64)),
        load_run(make_run("plain", corpus_name='"><script>alert(1)</script>')),
    ]
    text = render(runs, "rankbound compare '<b>'")
    tags = set(Page(text).tags)
    assert not {"b", "i", "script"} & tags
    assert "&lt;b&gt;bold &amp; co" in text
    assert "Cap" in text


@pytest.fixture
def one_figure(monkeypatch):
    """Draw the first figure only, where the text is what a test is about."""
    monkeypatch.setattr("rankbound.report.html.SECTIONS", SECTIONS[:1])


@pytest.mark.usefixtures("one_figure")
def test_an_unfinished_run_is_shown_as_such(make_run):
    runs = [load_run(make_run("killed", stop_at=100)), load_run(make_run("done", "Oracle"))]
    text = render(runs, COMMAND)
    assert "step 100 of 300, not finished" in text
    assert "Not finished: killed." in text


def test_missing_records_do_not_break_the_page(make_run):
    bare = load_run(make_run("bare", spectra=False, stop_at=0))
    text = render([bare], COMMAND)
    assert "no spectra recorded" in text
    assert Page(text).open == []


@pytest.mark.usefixtures("one_figure")
def test_environments_that_differ_are_told_run_by_run(make_run):
    first, second = make_run("a"), make_run("b", "Factorized(rank=16)")
    (second / "environment.json").write_text('{"device": "NVIDIA H200", "command": ["x", "y z"]}')
    text = render([load_run(first), load_run(second)], COMMAND)
    assert "where they differ" in text
    assert "NVIDIA H200" in text
    assert "not set" in text
    assert "x &#39;y z&#39;" in text


@pytest.mark.usefixtures("one_figure")
def test_seeds_get_their_intervals(make_run):
    runs = [load_run(make_run(f"linear-{s}", seed=s)) for s in (1, 2)]
    text = render(runs, COMMAND)
    assert "Over seeds" in text
    assert "one seed cannot" not in text
