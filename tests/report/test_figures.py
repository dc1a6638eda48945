import numpy as np
import pytest
from matplotlib import rc_context, rcParams

from rankbound import load_run
from rankbound.report import figures
from rankbound.report.spectra import spectra
from rankbound.report.style import Look, to_svg

MIXTURE = "MixtureOfSoftmaxes(components=4)"
ALL = [
    figures.loss_curves,
    figures.loss_by_width,
    figures.effective_rank,
    figures.singular_entropy,
    figures.anisotropy,
    figures.anisotropy_by_layer,
    spectra,
]
OVER_TRAINING = [figures.effective_rank, figures.singular_entropy, figures.anisotropy]


def texts(figure):
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))


@pytest.mark.parametrize("draw", ALL)
def test_same_runs_same_bytes_whatever_the_callers_style(draw, study):
    first = to_svg(draw(study), "name")
    with rc_context({"font.size": 31.0, "axes.facecolor": "red", "axes.xmargin": 0.3}):
        assert to_svg(draw(study[::-1]), "name") == first
        assert rcParams["font.size"] == 31.0


@pytest.mark.parametrize("draw", ALL)
def test_scarce_runs_are_drawn_and_said_to_be(draw, make_run):
    started = load_run(make_run("started", stop_at=0))
    bare = load_run(make_run("bare", "Oracle", 64, spectra=False, stop_at=8))
    path = make_run("terse", hidden_size=128, spectra=False, stop_at=0)
    (path / "metrics.csv").write_text("step,tokens,name,value\n10,20480,train/loss,8.1\n")
    svg = to_svg(draw([started, bare, load_run(path)]), "scarce")
    assert svg.startswith("<svg")
    assert "Oracle" in svg


def test_a_lone_run_without_spectra_says_so(make_run):
    bare = load_run(make_run("bare", spectra=False))
    assert "no spectra recorded" in texts(spectra([bare]))
    assert "no head's matrix recorded" in texts(figures.effective_rank([bare]))
    assert "No head's matrix recorded: bare." in texts(figures.singular_entropy([bare]))


@pytest.fixture(scope="module")
def diverged(make_module_run):
    """A run that turned NaN after step 200, a run that ends in infinity, one of NaN only."""
    settings = {"turned": {"stop_at": 200}, "infinite": {"head": "Oracle"}, "only": {}}
    paths = [make_module_run(name, **kwargs) for name, kwargs in settings.items()]
    (paths[2] / "metrics.csv").write_text("step,tokens,name,value\n")
    names = ["train/loss", "valid/loss", "valid/bits_per_byte", "hidden/head_input/anisotropy"]
    names += ["head/weight/effective_rank", "head/weight/singular_entropy", "hidden/0/anisotropy"]
    for path, value in zip(paths, ("nan", "inf", "nan"), strict=True):
        (path / "summary.json").unlink(missing_ok=True)
        with (path / "metrics.csv").open("a") as file:
            file.writelines(f"400,819200,{name},{value}\n" for name in names)
        with (path / "spectra.jsonl").open("a") as file:
            file.write('{"step": 400, "matrix": "weight", "values": [NaN, NaN]}\n')
    return [load_run(path) for path in paths]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draw", ALL)
def test_diverged_runs_are_drawn_as_far_as_they_are_finite(draw, diverged):
    assert to_svg(draw(diverged), "diverged").startswith("<svg")


@pytest.mark.parametrize("draw", [figures.loss_curves, *OVER_TRAINING])
def test_diverged_runs_are_named(draw, diverged):
    said = texts(draw(diverged)).replace("\n", " ")
    assert "Without steps that diverged: only, turned and infinite." in said


@pytest.mark.parametrize("draw", OVER_TRAINING)
def test_an_unfinished_run_is_named(draw, make_run):
    runs = [
        load_run(make_run("killed-run", stop_at=32)),
        load_run(make_run("done", total_steps=64)),
    ]
    assert "Not finished: killed-run." in texts(draw(runs))


def test_loss_curves_hold_the_recorded_rows_and_the_unigram_entropy(study):
    axes = figures.loss_curves(study).axes[0]
    drawn = [tuple(map(tuple, line.get_xydata())) for line in axes.lines]
    for run in study:
        for name in ("train/loss", "valid/loss"):
            assert tuple(run.series(name).items()) in drawn
    assert "unigram entropy 6.52" in [text.get_text() for text in axes.texts]


def test_different_corpora_are_drawn_in_bits_per_byte(make_run):
    runs = [
        load_run(make_run("large")),
        load_run(make_run("small", vocab_size=1024, sha256="ab" * 32)),
    ]
    axes = figures.loss_curves(runs).axes[0]
    assert axes.get_ylabel() == "loss (bits per byte)"
    ends = {line.get_ydata()[-1] for line in axes.lines}
    for run in runs:
        bits = run.series("valid/bits_per_byte").iloc[-1]
        assert any(end == pytest.approx(bits, rel=1e-12) for end in ends)


def test_loss_by_width_has_t_intervals_only_over_seeds(make_run):
    runs = [load_run(make_run(f"l{s}", seed=s)) for s in (1, 2, 3)]
    assert len(figures.loss_by_width(runs).axes[0].containers) == 1
    again = load_run(make_run("again", seed=1))
    assert len(figures.loss_by_width([runs[0], again]).axes[0].containers) == 0


def test_spectra_are_thinned_but_keep_both_ends_and_the_cliff(make_run):
    run = load_run(make_run("wide", "Factorized(rank=16)", 256, total_steps=2000))
    axes = spectra([run]).axes[0]
    assert len(axes.lines) == 8
    recorded = run.spectra[run.spectra["step"].isin([0, 2000])]["values"].tolist()
    assert len(recorded) == 2
    for line, values in zip((axes.lines[0], axes.lines[-1]), recorded, strict=True):
        drawn = line.get_ydata()
        assert len(drawn) == 96
        assert (drawn[0], drawn[-1]) == (values[0], values[-1])
        cliff = line.get_xdata()[np.argmax(drawn < 1e-6)]
        assert cliff == pytest.approx(17 / 256, abs=1.5 / 96)
    assert axes.get_ylim()[0] > 1e-3, "rounding does not stretch the axis"


def test_a_mixtures_spectrum_is_the_mean_of_its_components(make_run):
    run = load_run(make_run("mixture", MIXTURE, total_steps=4))
    last = run.spectra[run.spectra["step"] == 4]["values"].tolist()
    assert spectra([run]).axes[0].lines[-1].get_ydata() == pytest.approx(np.mean(last, axis=0))


def test_head_is_colour_and_width_is_line(study):
    look = Look(study)
    lines = [look.line(run) for run in study]
    assert [line["color"] for line in lines[:3]] == [line["color"] for line in lines[3:]]
    assert len({line["color"] for line in lines}) == 3
    assert len({line["marker"] for line in lines[:3]}) == 1
    assert lines[0]["linestyle"] != lines[3]["linestyle"]
