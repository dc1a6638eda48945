"""The study file: what its parts come to, and one line for what is wrong."""

import pytest

from rankbound.errors import InputError
from rankbound.study.grid import cells
from rankbound.study.spec import fit_arguments, merged, read_spec, text

FULL = """
question: Does it?
base: [base.yaml, {model.num_hidden_layers: 1}]
tokens_per_parameter: 20
match: parameters
axes:
  model.hidden_size: [8, 16]
  model.head: [Linear, {class_path: Factorized, init_args: {rank: 8}}]
  variant: {plain: {}, untied: {match: none, tokens: 1e4}}
exclude:
  - {model.hidden_size: 8, model.head: Factorized}
  - {model.hidden_size: 16, variant: [plain, other], model.head: Linear}
seeds: [1, 2]
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "model: {num_hidden_layers: 3, total_steps: 7, head: {class_path: A}}\n"
    )

    def written(content, name="study.yaml"):
        (tmp_path / name).write_text(content)
        return tmp_path / name

    return written


def test_cells_are_the_product_less_what_is_excluded(write):
    spec = read_spec(write(FULL))
    found, remarks = cells(spec)
    assert [tuple(cell.levels.values()) for cell in found] == [
        (8, "Linear", "plain"),
        (8, "Linear", "untied"),
        (16, "Linear", "untied"),
        (16, "Factorized(rank=8)", "plain"),
        (16, "Factorized(rank=8)", "untied"),
    ]
    assert remarks == []
    assert spec.name == "study"
    first, untied = found[0].settings, found[1].settings
    assert first["model.num_hidden_layers"] == 1
    assert first["tokens_per_parameter"] == 20
    assert "model.total_steps" not in first
    assert (untied["match"], untied["tokens"]) == ("none", 1e4)
    assert "tokens_per_parameter" not in untied


def test_a_later_setting_replaces_an_earlier_one_and_all_inside_it():
    before = {"model.head": "Linear", "model.head.bias": True, "model.headroom": 1}
    assert merged(before, {"model.head": "X"}) == {"model.headroom": 1, "model.head": "X"}
    assert merged(before, {"model.head.bias": False})["model.head"] == "Linear"
    assert merged({"model.total_steps": 5}, {"tokens": 9}) == {"tokens": 9}


def test_values_are_shown_shortly_and_told_in_full():
    head = {"class_path": "a.SoftCap", "init_args": {"cap": 30, "inner": {"class_path": "Linear"}}}
    assert text(head) == "SoftCap(cap=30, inner=Linear)"
    assert [text(v) for v in (None, 0.1, True, "x")] == ["none", 0.1, True, "x"]
    assert fit_arguments({"a.b": None, "c": "x y", "d": 1e-3, "e": {"class_path": "L"}}) == [
        "--a.b=null",
        "--c=x y",
        "--d=0.001",
        '--e={"class_path": "L"}',
    ]


def test_an_exclusion_of_nothing_is_remarked(write):
    _, remarks = cells(
        read_spec(write("axes: {model.hidden_size: [8]}\nexclude: [{model.hidden_size: 9}]"))
    )
    assert remarks == ["exclude model.hidden_size 9 excludes nothing"]


WRONG = [
    ("axis: {}", "there is no key axis; did you mean axes?"),
    ("axes: {a: 3}", "axis a must be a list of values, or labels"),
    ("axes: {a: []}", "axis a must be a list of values"),
    ("axes: {a: {x: 3}}", "axis a must be a list of values"),
    ("axes: {a: [1], a: [2]}", "a is given twice"),
    ("axes: [a]", "axes must name settings"),
    ("axes: {seed_everything: [1, 2]}", "list the seeds under seeds"),
    ("base: {run_dir: x}", "run_dir, which a study decides"),
    ("base: nowhere.yaml", "nowhere.yaml"),
    ("base: 3", "base holds 3"),
    ("name: a/b", "it names a folder"),
    ("seeds: 3", "seeds is 3; list whole numbers"),
    ("seeds: []", "seeds is []"),
    ("exclude: {a: 1}", "exclude must be a list"),
    ("rates: [1]", "rates must name a grid"),
    ("rates: {grid: [1e-2], sed: 1}", "rates has no sed; did you mean seed?"),
    ("rates: {grid: [-1]}", "must list positive learning rates"),
    ("rates: {grid: [x]}", "must list positive learning rates"),
    ("rates: {grid: [1e-2], factor: 1}", "the factor must be above 1"),
    ("rates: {grid: [1e-2], seed: 1}", "rates.seed 1 is one of seeds"),
    ("rates: {grid: [1e-2]}\naxes: {model.optimizer.learning_rate: [1]}", "rates tunes it"),
    ("[", "is not YAML"),
    ("text", "holds no settings"),
]


@pytest.mark.parametrize(("content", "message"), WRONG, ids=[case[0] for case in WRONG])
def test_what_is_wrong_is_one_line(write, content, message):
    with pytest.raises((InputError, FileNotFoundError)) as wrong:
        read_spec(write(content))
    assert message in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_an_unknown_name_in_an_exclusion_has_its_nearest(write):
    spec = read_spec(write("axes: {model.hidden_size: [8, 16]}\nexclude: [{model.hiden_size: 8}]"))
    with pytest.raises(InputError, match=r"did you mean model\.hidden_size\?"):
        cells(spec)
