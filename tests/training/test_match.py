"""Matched budgets: solved sizes against totals counted anew, and a run that carries one."""

import sys
from contextlib import nullcontext

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from rankbound import InputError, load_run
from rankbound.cli import main
from rankbound.heads.linear import Linear
from rankbound.model import GPT
from rankbound.parser import Parser
from rankbound.training.language_model import LanguageModel
from rankbound.training.match import forward_flops, match, nearest_size, plain_linear
from rankbound.training.module import Pretraining

WINDOW = 32


def settings(head="Linear", *args):
    parser = Parser()
    parser.add_class_arguments(Pretraining, "model")
    body = ["--model.vocab_size", 512, "--model.hidden_size", 32, "--model.num_attention_heads", 2]
    return parser.parse_args([str(a) for a in [*body, "--model.head", head, *args]]).model


def counted(model, budget):
    """The total of a real model, by other means than the ones that solve."""
    parser = Parser()
    parser.add_class_arguments(Pretraining, "model")
    with torch.random.fork_rng():
        built = parser.instantiate_classes(parser.parse_object({"model": model.as_dict()})).model.model
    if budget == "parameters":
        return sum(p.numel() for p in built.parameters())  # torch counts a shared one once
    with FlopCounterMode(display=False) as counter:  # it does not know the kernel taken without gradients
        built(torch.zeros(1, WINDOW, dtype=torch.int64))
    return counter.get_total_flops() / WINDOW


TIED = ("--model.tie_word_embeddings", "true")
SOLVABLE = [
    ("parameters", "Factorized", (), "intermediate_size"),
    ("flops", "Factorized", (), "intermediate_size"),
    ("parameters", "ResidualMLP", (), "intermediate_size"),
    ("parameters", "ResidualMLP", TIED, "intermediate_size"),
    ("flops", "ResidualMLP", TIED, "intermediate_size"),
    ("parameters", "MixtureOfSoftmaxes", (), "head.latent_size"),
    ("parameters", "MixtureOfSoftmaxes", TIED, "intermediate_size"),
    ("parameters", "MixtureOfContexts", (), "head.latent_size"),
    ("flops", "MixtureOfContexts", (), "head.latent_size"),
    ("parameters", "Adaptive", (), "intermediate_size"),
]


@pytest.mark.parametrize(("budget", "head", "args", "size"), SOLVABLE)
def test_totals_agree_within_one_percent(budget, head, args, size):
    given = settings(head, *args)
    solved, report = match(given, WINDOW, budget, plain_linear())
    reference = counted(settings("Linear", *args), budget)
    assert report["by"] == size
    assert abs(report["total"] - report["reference"]) <= 0.01 * report["reference"]
    assert report["reference"] == reference
    assert report["total"] == counted(solved, budget)
    assert report | {"budget": budget, "to": "Linear"} == report
    assert {key for key, value in solved.items() if given[key] != value} == {
        size.replace("head.", "head.init_args.")
    }


NARROW_HEAD = ("--model.head.rank", 8)
WIDE = (*NARROW_HEAD, "--model.hidden_size", 400, "--model.num_hidden_layers", 1)


@pytest.mark.parametrize(
    ("budget", "by", "args"),
    [
        ("parameters", "intermediate_size", NARROW_HEAD),
        ("parameters", "num_hidden_layers", (*NARROW_HEAD, "--model.num_hidden_layers", 50)),
        ("flops", "hidden_size", WIDE),
        ("flops", "head.rank", NARROW_HEAD),
    ],
)
def test_no_other_value_of_a_named_size_is_nearer(budget, by, args):
    solved, report = match(settings("Factorized", *args), WINDOW, budget, plain_linear(), by)
    assert report["by"] == by
    assert report["total"] == counted(solved, budget)
    for other in (-1, 1):
        neighbour = solved.clone()
        neighbour[by.replace("head.", "head.init_args.")] += other * (2 if by == "hidden_size" else 1)
        gap = abs(counted(neighbour, budget) - report["reference"])
        assert gap >= abs(report["total"] - report["reference"])


def test_a_size_inside_a_nested_head_is_solved():
    given = settings("SoftCap", "--model.head.inner", "Factorized", "--model.head.inner.rank", 5)
    solved, report = match(given, WINDOW, "parameters", plain_linear(), "head.inner.rank")
    assert solved.head.init_args.inner.init_args.rank == report["value"] == 30
    assert counted(solved, "parameters") == report["total"]
    assert given.head.init_args.inner.init_args.rank == 5


def test_any_head_can_be_the_reference():
    reference = settings("Factorized", "--model.head.rank", 8)
    solved, report = match(settings(), WINDOW, "parameters", reference.head)
    assert report["to"] == "Factorized(rank=8)"
    assert report["reference"] == counted(reference, "parameters")
    assert solved.intermediate_size == report["value"] < 4 * 32


def test_totals_that_agree_are_left_alone():
    given = settings("SoftCap")
    solved, report = match(given, WINDOW, "parameters", plain_linear())
    assert solved == given
    assert (report["by"], report["value"]) == (None, None)


def test_auto_changes_no_size_that_is_given():
    given = settings(
        *("MixtureOfSoftmaxes", "--model.head.latent_size", 32, "--model.num_hidden_layers", 1),
        *("--model.head.components", 2),
    )
    solved, report = match(given, WINDOW, "parameters", plain_linear())
    assert report["by"] == "intermediate_size"
    assert solved.head == given.head
    given.intermediate_size = 128
    with pytest.raises(InputError, match=r"head\.latent_size 32 is given, intermediate_size 128 is given"):
        match(given, WINDOW, "parameters", plain_linear())
    solved, report = match(given, WINDOW, "parameters", plain_linear(), "intermediate_size")
    assert solved.intermediate_size == report["value"] != 128


def test_an_impossible_match_names_every_size_its_value_and_its_total():
    given = settings("Expanded")
    with pytest.raises(InputError) as refused:
        match(given, WINDOW, "parameters", plain_linear())
    message = str(refused.value)
    assert message.startswith("no size makes the parameters those of Linear, 58,")
    for size, value in (("head.size", 33), ("intermediate_size", 1)):
        tried = given.clone()
        tried[size.replace("head.", "head.init_args.")] = value
        assert f"{size} {value} makes {counted(tried, 'parameters'):,}" in message
    assert message.endswith("name another with --match_by: hidden_size, num_hidden_layers")
    assert "\n" not in message


@pytest.mark.parametrize(("rank", "left"), [(9, 53), (12, 28)])
def test_auto_leaves_the_feed_forward_layers_as_wide_as_the_stream(rank, left):
    model = settings("ForwardFactorized", "--model.head.rank", rank, "--model.num_hidden_layers", 1)
    assert match(model, WINDOW, "parameters", plain_linear(), "intermediate_size")[1]["value"] == left
    if left >= 32:
        assert match(model, WINDOW, "parameters", plain_linear())[1]["value"] == left
    else:
        with pytest.raises(InputError, match=f"no size makes.*intermediate_size {left} makes"):
            match(model, WINDOW, "parameters", plain_linear())


def test_a_size_that_does_not_exist_names_the_nearest():
    with pytest.raises(InputError, match=r"no size head\.rnk; did you mean head\.rank\?"):
        match(settings("Factorized"), WINDOW, "parameters", plain_linear(), "head.rnk")
    with pytest.raises(InputError, match=r"no size nonsense \(known: intermediate_size, .*head\.rank\)$"):
        match(settings("Factorized"), WINDOW, "parameters", plain_linear(), "nonsense")


def test_a_size_that_changes_no_total_is_no_match():
    given = settings("BackwardFactorized", "--model.head.refresh", 7)
    to = settings("Factorized", *NARROW_HEAD).head
    unchanged = counted(given, "parameters")
    with pytest.raises(InputError, match=f"head.refresh 1 makes {unchanged:,}; name another"):
        match(given, WINDOW, "parameters", to, "head.refresh")


def test_the_random_state_is_left_as_it_was():
    before = torch.get_rng_state()
    match(settings("BackwardFactorized"), WINDOW, "flops", settings("Factorized").head)
    match(settings("MixtureOfSoftmaxes"), WINDOW, "parameters", plain_linear())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_forward_flops_are_those_of_the_operations_that_ran(activation):
    body = GPT(300, 32, 3, 4, activation=activation, intermediate_size=50)
    model = LanguageModel(body, Linear)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 16, dtype=torch.int64))
    assert counter.get_total_flops() == 2 * 16 * forward_flops(model, 16)


@given(
    slope=st.integers(0, 50),
    base=st.integers(0, 1000),
    low=st.integers(1, 40),
    length=st.integers(0, 400),
    start=st.integers(0, 400),
    target=st.integers(0, 20_000),
)
def test_nearest_size_is_the_nearest_of_all(slope, base, low, length, start, target):
    accepted = range(low, low + length + 1)

    def total_of(size):
        return base + slope * size if size in accepted else None

    found = nearest_size(total_of, target, accepted[start % len(accepted)])
    best = min(abs(total_of(size) - target) for size in accepted)
    assert found is not None
    assert found[1] == total_of(found[0])
    assert abs(found[1] - target) == best


def test_nearest_size_finds_its_own_start_or_says_that_there_is_none():
    assert nearest_size(lambda size: size if 10 <= size <= 90 else None, 11, None) == (11, 11)
    assert nearest_size(lambda size: None, 11, None) is None


@pytest.fixture
def fit(monkeypatch, capsys):
    """`rankbound fit` in this process: what it printed, or its one line of error."""

    def run(*args, status=0):
        monkeypatch.setattr(sys, "argv", ["rankbound"])
        with pytest.raises(SystemExit) if status else nullcontext() as exited:
            main(["fit", *map(str, args)])
        printed = capsys.readouterr()
        if not status:
            return printed.out
        assert exited.value.code == status
        lines = [line for line in printed.err.splitlines() if line != "Seed set to 0"]
        assert len(lines) == 1
        return lines[0]

    return run


@pytest.fixture
def matched(small):
    return [
        *(*small, "--model.head", "SoftCap", "--model.head.inner", "Factorized"),
        *("--match", "parameters", "--match_by", "head.inner.rank"),
    ]


def test_a_matched_run_says_so_repeats_and_resumes(fit, matched, tmp_path):
    run_dir = tmp_path / "run"
    out = fit(*matched, "--run_dir", run_dir)
    run = load_run(run_dir)
    report = run.config["derived"]["matched"]
    assert f"with head.inner.rank = {report['value']}" in out
    assert run.config["model"]["head"]["init_args"]["inner"]["init_args"]["rank"] == report["value"] == 15
    assert report["total"] == run.config["derived"]["parameters"]["total"]
    assert report | {"budget": "parameters", "to": "Linear", "by": "head.inner.rank"} == report
    assert not [key for key in run.config if key.startswith("match")]

    config = ["--config", run_dir / "config.yaml"]
    fit(*config, "--run_dir", tmp_path / "again")
    again = load_run(tmp_path / "again")
    assert again.config == run.config
    assert again.series("train/loss").equals(run.series("train/loss")), "solving drew random numbers"

    before = (run_dir / "config.yaml").read_bytes()
    for settings in (matched, config):
        (run_dir / "summary.json").unlink()
        fit(*settings, "--run_dir", run_dir, "--ckpt_path", "last")
        assert load_run(run_dir).metrics.equals(run.metrics)
        assert load_run(run_dir).summary["step"] == 24
    assert (run_dir / "config.yaml").read_bytes() == before

    err = fit(*config, "--match", "flops", "--run_dir", tmp_path / "new", status=2)
    assert "are matched already" in err
    altered = yaml.safe_load(before)
    altered["derived"]["matched"]["value"] = 14
    (tmp_path / "altered.yaml").write_text(yaml.safe_dump(altered))
    err = fit("--config", tmp_path / "altered.yaml", "--run_dir", tmp_path / "new", status=2)
    assert "derived.matched" in err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--match", "parameters", "--match_by", "nonsense"], "no size nonsense"),
        (["--match_by", "head.rank"], "add --match parameters or flops"),
        (["--match_to", "Factorized"], "add --match parameters or flops"),
        (["--match_to", "Factorised"], "did you mean Factorized?"),
        (["--match", "parameter"], "match must be one of none, parameters, flops"),
    ],
)
def test_wrong_input_is_one_line(fit, small, tmp_path, args, words):
    assert words in fit(*small, *args, "--run_dir", tmp_path / "run", status=2)
    assert not (tmp_path / "run").exists()
