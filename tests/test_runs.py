"""The run folder: what is written comes back, whatever moment the writer was killed at."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankbound import InputError, load_run
from rankbound.runs import CONFIG, METRICS, SPECTRA, RunWriter


@pytest.fixture
def writer(tmp_path):
    (tmp_path / CONFIG).write_text("model: {hidden_size: 3}\n")
    writer = RunWriter(tmp_path)
    yield writer
    writer.close()


@given(value=st.floats(allow_nan=False))
def test_values_come_back_bit_for_bit(value, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / CONFIG).write_text("a: 1")
    writer = RunWriter(folder)
    writer.metrics(1, 2, {"x": value})
    writer.spectrum(1, "weight", [value, value])
    writer.close()
    run = load_run(folder)
    assert run.metrics["value"].tolist() == [value]
    assert run.spectra["values"].tolist() == [[value, value]]


def test_rows_and_series(writer, tmp_path):
    writer.metrics(0, 0, {"a": 1.0, "b": math.nan})
    writer.metrics(5, 50, {"a": 2.0})
    run = load_run(tmp_path)
    assert run.metrics["tokens"].tolist() == [0, 0, 50]
    assert run.series("a").to_dict() == {0: 1.0, 5: 2.0}
    assert run.series("missing").empty
    assert math.isnan(run.series("b")[0])
    assert run.config == {"model": {"hidden_size": 3}}
    assert run.summary == {}


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_broken_last_line_is_left_out(writer, tmp_path, cut):
    writer.metrics(1, 2, {"a": 1.5})
    writer.spectrum(1, "weight", [2.0, 1.0])
    for name, line in (
        (METRICS, b"2,4,a,2.5\n"),
        (SPECTRA, b'{"step": 2, "matrix": "w", "values": [1]}\n'),
    ):
        with (tmp_path / name).open("ab") as file:
            file.write(line[:-cut])
    run = load_run(tmp_path)
    assert run.metrics["step"].tolist() == [1]
    assert run.spectra["step"].tolist() == [1]


def test_truncating_to_a_remembered_position_and_going_on(writer, tmp_path):
    writer.metrics(1, 2, {"a": 1.0})
    position = writer.position()
    writer.metrics(2, 4, {"a": 2.0})
    writer.spectrum(2, "weight", [1.0])
    writer.close()
    again = RunWriter(tmp_path)
    again.truncate(position)
    again.metrics(2, 4, {"a": 2.5})
    again.close()
    run = load_run(tmp_path)
    assert run.series("a").to_dict() == {1: 1.0, 2: 2.5}
    assert run.spectra.empty


def test_a_second_writer_is_refused(writer, tmp_path, monkeypatch):
    monkeypatch.setattr("rankbound.runs.LOCK_PATIENCE", 0.2)
    with pytest.raises(InputError, match="another process is writing"):
        RunWriter(tmp_path)


def test_rows_that_were_removed_are_noticed(writer, tmp_path):
    writer.metrics(1, 2, {"a": 1.0})
    position = writer.position()
    writer.close()
    (tmp_path / METRICS).write_text("")
    with pytest.raises(InputError, match="rows were removed"):
        RunWriter(tmp_path).truncate(position)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (CONFIG, "a: [", "is not YAML"),
        (CONFIG, "", "holds no settings"),
        (METRICS, "step,tokens,name,value\n1,2,a,b\n", "no number"),
    ],
)
def test_a_damaged_folder_is_named(writer, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as wrong:
        _ = (load_run(tmp_path).config, load_run(tmp_path).metrics)
    assert name in str(wrong.value)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.yaml"):
        load_run(tmp_path)
