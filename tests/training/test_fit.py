"""`rankbound fit` as a user runs it: what it writes, what it learns, and how it refuses."""

import csv
import importlib.util
import json
import math
import shutil
import subprocess

import pytest
import torch
import yaml

from rankbound import InputError, load_run
from rankbound.corpora import Corpus
from rankbound.training.checkpoint_io import AtomicCheckpointIO, check_intact, damage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "run"


@pytest.fixture
def run(rankbound, small, run_dir):
    """A finished run, trained once for this module."""
    if not run_dir.exists():
        rankbound("fit", *small, "--run_dir", run_dir, "--checkpoints.keep_recorded", "true")
    return load_run(run_dir)


def test_run_folder_holds_what_the_report_needs(run, corpus, run_dir):
    assert run.summary["status"] == "finished"
    assert run.summary["step"] == 24
    assert run.summary["tokens"] == 24 * 4 * 16
    assert 0 < run.summary["recorder_share"] < 1
    assert run.config["data"]["corpus_sha256"] == Corpus(corpus).sha256
    assert run.config["model"]["vocab_size"] == 300
    assert run.config["derived"]["head"] == "Linear"
    assert run.config["derived"]["rank_bound"] == 17
    counts = run.config["derived"]["parameters"]
    assert counts["head"] == counts["embedding"] == 300 * 16
    assert counts["total"] == counts["embedding"] + counts["body"] + counts["head"]
    assert "ckpt_path" not in (run_dir / "config.yaml").read_text()
    assert run.environment["torch"] == torch.__version__


def test_everything_is_recorded_at_zero_powers_of_two_every_n_and_the_end(run):
    recorded = [0, 1, 2, 4, 5, 8, 10, 15, 16, 20, 24]
    of_head = run.spectra[run.spectra["matrix"] == "weight"]
    assert of_head["step"].tolist() == recorded
    assert {len(values) for values in of_head["values"]} == {16}
    of_log_prob = run.spectra[run.spectra["matrix"] == "log_prob/centred"]
    assert of_log_prob["step"].tolist() == [recorded[0], recorded[-1]]  # seldom: it costs more
    for name in ("head/weight/effective_rank", "hidden/0/anisotropy", "hidden/head_input/norm"):
        assert run.series(name).index.tolist() == recorded
    assert run.series("valid/loss").index.tolist() == [4, 8, 12, 16, 20, 24]
    assert run.series("train/loss").index.tolist() == [3, 6, 9, 12, 15, 18, 21, 24]
    tokens = run.metrics.drop_duplicates("step").set_index("step")["tokens"]
    assert (tokens == tokens.index * 64).all()


def test_recorded_values_are_those_of_the_checkpoint(run, run_dir):
    checkpoint = torch.load(run_dir / "step=24.ckpt", weights_only=True)
    weight = checkpoint["state_dict"]["model.head.weight"].double()
    expected = torch.linalg.svdvals(weight)
    of_head = run.spectra[run.spectra["matrix"] == "weight"]
    assert of_head["values"].iloc[-1] == pytest.approx(expected.tolist(), rel=1e-6)


def test_checkpoints_are_kept_at_the_recording_steps(run, run_dir):
    kept = {int(path.stem.partition("=")[2]) for path in run_dir.glob("step=*.ckpt")}
    assert kept == {0, 1, 2, 4, 5, 8, 10, 15, 16, 20, 24}
    assert (run_dir / "last.ckpt").samefile(run_dir / "step=24.ckpt")


def test_model_learns(run):
    losses = run.series("valid/loss")
    assert losses.iloc[-1] < losses.iloc[0] < math.log(300) + 0.5


def test_metrics_read_without_this_package(run, run_dir):
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(run.metrics)
    spectra = [json.loads(line) for line in (run_dir / "spectra.jsonl").read_text().splitlines()]
    assert [s["step"] for s in spectra] == run.spectra["step"].tolist()


def test_recorded_config_starts_the_same_run_again(run, rankbound, run_dir, tmp_path):
    rankbound("fit", "--config", run_dir / "config.yaml", "--run_dir", tmp_path / "again")
    again = load_run(tmp_path / "again")
    assert again.series("valid/loss").equals(run.series("valid/loss"))
    assert again.config == run.config


def test_resuming_from_step_0_repeats_no_row(run, rankbound, run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "copy")
    (tmp_path / "copy" / "summary.json").unlink()
    config = ["--config", run_dir / "config.yaml"]
    rankbound("fit", *config, "--ckpt_path", tmp_path / "copy" / "step=0.ckpt")
    again = load_run(tmp_path / "copy")
    assert not again.metrics.duplicated(["step", "name"]).any()
    assert again.series("train/loss").equals(run.series("train/loss"))
    assert again.spectra.equals(run.spectra)


def test_a_run_that_died_before_its_summary_gets_one(run, rankbound, run_dir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    (copy / "summary.json").unlink()
    rankbound("fit", "--config", copy / "config.yaml", "--run_dir", copy, "--ckpt_path", "last")
    assert load_run(copy).summary["valid/loss"] == run.summary["valid/loss"]
    assert load_run(copy).metrics.equals(run.metrics)


def test_validate_gives_the_recorded_loss(run, rankbound, run_dir):
    out = rankbound("validate", "--config", run_dir / "config.yaml", "--ckpt_path", run_dir / "last.ckpt")
    assert f"{run.series('valid/loss').iloc[-1]:.4f}"[:5] in out


def test_a_config_that_makes_another_model_is_refused(run, rankbound, run_dir, tmp_path):
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["derived"]["parameters"]["body"] += 1
    (tmp_path / "altered.yaml").write_text(yaml.safe_dump(config))
    err = rankbound("fit", "--config", "altered.yaml", "--run_dir", "other", status=2)
    assert "derived.parameters" in err
    assert not (tmp_path / "other").exists()


def test_resuming_with_changed_settings_names_them(run, rankbound, run_dir):
    before = (run_dir / "config.yaml").read_bytes()
    changed = ["--config", run_dir / "config.yaml", "--model.dropout", 0.2, "--ckpt_path", "last"]
    err = rankbound("fit", *changed, "--run_dir", run_dir, status=2)
    assert "model.dropout (0.1 -> 0.2)" in err
    assert len(err.strip().splitlines()) == 1
    assert (run_dir / "config.yaml").read_bytes() == before


def test_a_run_folder_in_use_is_left_alone(run, rankbound, small, run_dir):
    before = (run_dir / "metrics.csv").read_bytes()
    assert "holds a run already" in rankbound("fit", *small, "--run_dir", run_dir, status=2)
    assert "no checkpoint" in rankbound("fit", *small, "--run_dir", "new", "--ckpt_path", "last", status=2)
    assert (run_dir / "metrics.csv").read_bytes() == before


def test_a_damaged_checkpoint_is_detected_and_the_one_before_it_offered(
    run, rankbound, small, run_dir, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    data = bytearray((copy / "last.ckpt").read_bytes())
    for damaged in (data[: len(data) // 2], _altered(data)):
        (copy / "last.ckpt").unlink()
        (copy / "last.ckpt").write_bytes(damaged)
        (copy / "step=24.ckpt").unlink(missing_ok=True)
        resume = ["--config", copy / "config.yaml", "--run_dir", copy, "--ckpt_path", "last"]
        err = rankbound("fit", *resume, status=2)
        assert f"resume from the one before it: --ckpt_path {copy / 'step=20.ckpt'}" in err
    rankbound("fit", *resume[:-1], copy / "step=20.ckpt")
    assert load_run(copy).series("valid/loss").equals(run.series("valid/loss"))


def _altered(data: bytearray) -> bytearray:
    altered = bytearray(data)
    altered[len(data) // 3] ^= 1
    return altered


def test_a_checkpoint_from_another_vocabulary_is_refused(run, rankbound, run_dir, tmp_path):
    from tests.conftest import write_text

    from rankbound.corpora import prepare

    text = write_text(tmp_path / "text.txt", words=4000, seed=9)
    prepare(str(text), 280, tmp_path / "other")
    args = [
        "--config",
        run_dir / "config.yaml",
        "--data.corpus",
        "other",
        "--ckpt_path",
        run_dir / "last.ckpt",
    ]
    err = rankbound("validate", *args, status=2)
    assert "model.vocab_size is 300" in err
    assert len(err.strip().splitlines()) == 1
    err = rankbound("validate", "--data.corpus", "other", "--ckpt_path", run_dir / "last.ckpt", status=2)
    assert "the checkpoint is not of this model" in err
    assert len(err.strip().splitlines()) == 1


def test_a_time_limit_ends_a_run_that_can_go_on(run, rankbound, small, tmp_path):
    args = [*small, "--model.total_steps", 20_000, "--run_dir", tmp_path / "run"]
    args += ["--checkpoints.every", 100_000, "--recorder.when.every", 100_000, "--evaluate.every", 100_000]
    rankbound("fit", *args, "--trainer.max_time", "00:00:00:01")
    stopped = load_run(tmp_path / "run")
    assert stopped.summary == {}
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert 0 < checkpoint["global_step"] < 20_000
    # Lightning counts the time of the whole run
    rankbound("fit", *args, "--trainer.max_time", "00:00:00:03", "--ckpt_path", "last")
    again = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert again["global_step"] > checkpoint["global_step"]


def test_rows_go_to_tensorboard_too(rankbound, small, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rankbound("fit", *small, "--run_dir", tmp_path / "run", "--tensorboard", "true")
    (path,) = (tmp_path / "run").rglob("events*")
    events = EventAccumulator(str(path.parent))
    events.Reload()
    shown = [(e.step, e.value) for e in events.Scalars("valid/loss")]
    recorded = load_run(tmp_path / "run").series("valid/loss")
    assert [step for step, _ in shown] == recorded.index.tolist()
    assert [value for _, value in shown] == pytest.approx(recorded.tolist())


def test_a_logger_that_is_not_installed_is_named(rankbound, small, tmp_path):
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    err = rankbound("fit", *small, "--run_dir", tmp_path / "run", "--wandb", "true", status=2)
    assert "pip install 'rankbound[wandb]'" in err
    assert not (tmp_path / "run").exists()


def test_without_a_compiler_it_runs_eagerly_and_says_so(rankbound, small, tmp_path):
    args = [
        *small,
        "--model.compile",
        "auto",
        "--trainer.precision",
        "bf16-mixed",
        "--run_dir",
        tmp_path / "run",
    ]
    out = rankbound("fit", *args, PATH="", CXX="")
    assert "Running eagerly, slower: no C++ compiler" in out
    assert load_run(tmp_path / "run").summary["step"] == 24
    args[-1], args[args.index("auto")] = tmp_path / "other", "always"
    assert "model.compile is 'always'" in rankbound("fit", *args, status=2, PATH="", CXX="")


def test_divergence_stops_the_run_names_the_step_and_keeps_the_last_good_checkpoint(
    rankbound, small, tmp_path
):
    args = [*small, "--model.optimizer.learning_rate", 1e30, "--model.gradient_clip", "null"]
    args += ["--checkpoints.every", 1, "--run_dir", tmp_path / "run"]
    err = rankbound("fit", *args, status=2)
    assert "training diverged at step" in err
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert all(torch.isfinite(v).all() for v in checkpoint["state_dict"].values())


def test_a_full_disk_is_one_line_and_loses_no_checkpoint(rankbound, small, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", disk], capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        args = [*small, "--checkpoints.keep_recorded", "true", "--run_dir", disk / "run"]
        err = rankbound("fit", *args, status=2)
        assert "No space left on device" in err
        assert damage(disk / "run" / "last.ckpt") is None
        assert not list((disk / "run").glob(".*partial"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_checkpoint_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"state_dict": {}}, path)
    with pytest.raises(Exception, match=r"pickle|local"):
        writer.save_checkpoint({"state_dict": lambda: 0}, path)
    assert writer.load_checkpoint(path) == {"state_dict": {}}
    assert list(tmp_path.iterdir()) == [path]


def test_loading_a_checkpoint_runs_no_code(tmp_path):
    torch.save({"x": _Code()}, tmp_path / "evil.ckpt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match="no checkpoint"):
        check_intact(tmp_path / "none.ckpt")


class _Code:
    def __reduce__(self):
        return (print, ("ran",))
