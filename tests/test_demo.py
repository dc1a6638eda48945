"""The demo's own parts; `make demo` is the whole of it."""

from pathlib import Path

import pytest
import yaml

from rankbound.demo import CELLS, EAGER, Cell, demo
from rankbound.runs import load_run


def test_a_config_in_the_repository_is_one_of_its_runs():
    config = yaml.safe_load((Path(__file__).parent.parent / "configs/demo.yaml").read_text())
    words = Cell("MixtureOfSoftmaxes", 128).arguments(Path("data/sotu-4096"), 300, EAGER)
    told = dict(zip(words[::2], words[1::2], strict=True))
    head = config["model"].pop("head")
    flat = {f"--{part}.{k}": v for part, settings in config.items() for k, v in settings.items()}
    optimizer = flat.pop("--model.optimizer")
    flat |= {"--model.head": head["class_path"], "--model.head.components": head["init_args"]["components"]}
    flat |= {f"--model.optimizer.{k}": v for k, v in optimizer.items()}
    flat |= {f"--recorder.when.{k}": v for k, v in flat.pop("--recorder.when").items()}
    of_the_machine = {"--model.compile", "--trainer.precision"}
    assert {k: str(v) for k, v in flat.items()} == {
        k: v for k, v in told.items() if k not in of_the_machine
    }


@pytest.mark.slow
def test_demo_end_to_end_on_a_text_of_ones_own(tmp_path, monkeypatch, capsys):
    from tests.conftest import write_text

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rankbound.demo._calibrate", lambda *_: (8, EAGER))
    monkeypatch.setattr("rankbound.demo.CELLS", [c for c in CELLS if c.hidden_size == 32][1:])
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(6):
        write_text(texts / f"{i}.txt", words=3000, seed=i)
    demo(Path("out"), corpus=str(texts), vocab_size=290)
    assert "Report: out/report.html" in capsys.readouterr().out
    assert load_run("out/Linear-d32").summary["step"] == 8
    first = (tmp_path / "out/Linear-d32/summary.json").read_bytes()
    demo(Path("out"), corpus=str(texts), vocab_size=290)
    assert "Going on with the demo" in capsys.readouterr().out
    assert (tmp_path / "out/Linear-d32/summary.json").read_bytes() == first
