"""The recorder as a callback: in this project's runs by other tests' processes, here on foreign modules."""

import math
import re

import lightning as L  # noqa: N812
import pytest
import torch
from torch import nn

from rankbound import InputError, load_run
from rankbound.heads import Linear, MixtureOfSoftmaxes
from rankbound.metrics import anisotropy, effective_rank, singular_values
from rankbound.model import GPT
from rankbound.runs import is_volatile
from rankbound.training.language_model import LanguageModel
from rankbound.training.measurements import Measurement, Reading, all_measurements
from rankbound.training.module_recorder import ModuleRecorder
from rankbound.training.observed import ObservedRun
from rankbound.training.recorder import numbers
from rankbound.training.when import When

VOCAB, WIDTH = 40, 16
PROBE = torch.randint(0, VOCAB, (4, 12), generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(0, VOCAB, (4, 12), generator=torch.Generator().manual_seed(2))
OFTEN = When(every=2, per_doubling=0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.layer = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(0.2))
        self.lm_head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens):
        return self.lm_head(self.layer(self.embedding(tokens)))


class Foreign(L.LightningModule):
    def __init__(self, compiled=False):
        super().__init__()
        self.model = torch.compile(Model(), backend="eager") if compiled else Model()

    def forward(self, tokens):
        return self.model(tokens)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch).flatten(0, 1), batch.roll(-1, 1).flatten())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-2)


def batches(steps):
    return torch.utils.data.DataLoader(
        torch.randint(0, VOCAB, (steps * 4, 12), generator=torch.Generator().manual_seed(3)), batch_size=4
    )


def train(module, *callbacks, steps=6, **settings):
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=settings.pop("logger", False),
    )
    trainer.fit(module, batches(8), **settings)
    return trainer


def recorder(folder, **settings):
    names = {"head": "model.lm_head", "layers": ["model.embedding", "model.layer"]}
    given = names | {"probe": PROBE, "targets": TARGETS, "run_dir": folder, "when": OFTEN} | settings
    return ModuleRecorder(**given)


def every_measurement():
    quick = {"IntrinsicDimension": {}, "Unargmaxable": {"seconds": 5.0}}
    return [kind(**quick.get(name, {}), when=OFTEN) for name, kind in all_measurements().items()]


def test_a_foreign_module_is_recorded_by_naming_its_head(tmp_path):
    torch.manual_seed(0)
    module = Foreign()
    train(module, recorder(tmp_path / "run", measurements=every_measurement()))
    run = load_run(tmp_path / "run")
    assert sorted(set(run.metrics["step"])) == [0, 2, 4, 6]
    weight = module.model.lm_head.weight
    expected = effective_rank(singular_values(weight)).item()
    assert run.series("head/weight/effective_rank").iloc[-1] == pytest.approx(expected, rel=1e-12)
    module.eval()
    states = module.model.layer(module.model.embedding(PROBE))[:, 1:].flatten(0, 1)
    found = run.series("hidden/model.layer/anisotropy")
    assert found.iloc[-1] == pytest.approx(anisotropy(states).item(), abs=1e-9)
    log_prob = module(PROBE).double().log_softmax(-1).flatten(0, 1)
    spectrum = run.spectra[run.spectra["matrix"] == "log_prob/raw"]["values"].iloc[-1]
    assert spectrum[0] == pytest.approx(torch.linalg.svdvals(log_prob)[0].item(), rel=1e-3)
    assert run.series("log_prob/raw/numerical_rank_1e-10").max() <= WIDTH + 1
    assert run.series("convergence/model.layer/cka").index.tolist() == [0, 2, 4]
    assert not run.metrics["name"].str.startswith("failed").any()
    assert run.metrics["value"].map(math.isfinite).all()


@pytest.mark.parametrize("head", [Linear, MixtureOfSoftmaxes])
@pytest.mark.parametrize("name", all_measurements())
def test_every_measurement_repeats_itself_and_leaves_the_model_alone(name, head, tmp_path):
    torch.manual_seed(0)
    model = LanguageModel(GPT(VOCAB, hidden_size=WIDTH, num_hidden_layers=1, dropout=0.5), head)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    readings = []
    for _ in range(2):
        model.eval()
        seen = ObservedRun(4, model, PROBE, TARGETS, run_dir=tmp_path, last=True)
        reading = all_measurements()[name]()(seen)
        readings.append(numbers(reading.values))
        assert all(spectrum.ndim == 1 for spectrum in reading.spectra.values())
    assert readings[0] == readings[1]
    assert all(math.isfinite(value) for value in readings[0].values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_recording_does_not_change_what_is_trained(tmp_path):
    weights = []
    for callbacks in ([], [recorder(tmp_path / "run", measurements=every_measurement())]):
        L.seed_everything(5, verbose=False)
        module = Foreign()
        train(module, *callbacks)
        weights.append(module.model.layer[0].weight)
    assert torch.equal(*weights)


def test_a_compiled_module_is_looked_into(tmp_path):
    module = Foreign(compiled=True)
    names = {"head": "model._orig_mod.lm_head", "layers": ["model._orig_mod.layer"]}
    train(module, recorder(tmp_path / "run", **names), steps=2)
    assert load_run(tmp_path / "run").series("hidden/model._orig_mod.layer/norm").iloc[-1] > 0


def test_a_resumed_run_loses_no_row_and_repeats_none(tmp_path):
    def run(folder, steps, **settings):
        L.seed_everything(5, verbose=False)
        measurements = [all_measurements()["HeadSpectrum"](), all_measurements()["StateGeometry"]()]
        module = Foreign()
        module.model.layer[2].p = 0.0
        return train(module, recorder(folder, measurements=measurements), steps=steps, **settings)

    run(tmp_path / "parts", 3).save_checkpoint(tmp_path / "saved.ckpt")
    parts = load_run(tmp_path / "parts")
    assert set(parts.metrics["step"]) == {0, 2, 3}
    run(tmp_path / "parts", 6, ckpt_path=tmp_path / "saved.ckpt")
    parts = load_run(tmp_path / "parts").metrics
    assert not parts[~parts["name"].map(is_volatile)].duplicated(["step", "name"]).any()
    assert set(parts["step"]) == {0, 2, 3, 4, 6}
    with pytest.raises(InputError, match="holds a run already"):
        run(tmp_path / "parts", 6)


class Stop(L.Callback):
    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step == 4


@pytest.mark.parametrize("every", [2, 3])
def test_a_run_that_stops_early_has_its_end_recorded_once(tmp_path, every):
    when = When(every=every, per_doubling=0)
    measurements = [all_measurements()[name]() for name in ("HeadSpectrum", "Convergence")]
    train(Foreign(), Stop(), recorder(tmp_path / "run", measurements=measurements, when=when))
    run = load_run(tmp_path / "run")
    assert run.series("head/weight/effective_rank").index.tolist() == sorted({0, *range(0, 5, every), 4})
    assert run.series("convergence/head_input/cka").index.tolist() == list(range(0, 4, every))


def test_weights_that_are_not_finite_are_named_and_training_goes_on(tmp_path, capsys):
    module = Foreign()
    with torch.no_grad():
        module.model.lm_head.weight[3, 2] = math.nan
    train(module, recorder(tmp_path / "run", measurements=every_measurement()), steps=2)
    run = load_run(tmp_path / "run")
    assert run.series("not_finite/model.lm_head.weight").loc[0] == 1
    assert math.isnan(run.series("head/weight/effective_rank").loc[0])
    assert "1 values of model.lm_head.weight are not finite at step 0" in capsys.readouterr().err


class Impossible(Measurement):
    def __call__(self, seen):
        raise InputError("there is nothing\nto see")


class Constant(Measurement):
    def __call__(self, seen):
        return Reading({"constant": torch.tensor(2.0), "seen": seen.step})


def test_a_measurement_that_fails_is_recorded_and_stops_nothing(tmp_path, capsys):
    train(Foreign(), recorder(tmp_path / "run", measurements=[Impossible(), Constant()]))
    run = load_run(tmp_path / "run")
    assert run.series("failed/Impossible").tolist() == [1, 1, 1, 1]
    assert run.series("constant").tolist() == [2, 2, 2, 2]
    assert run.series("seen").tolist() == [0, 2, 4, 6]
    told = capsys.readouterr().err
    assert told.count("Impossible could not be measured at step 0: there is nothing to see") == 1
    assert told.count("Impossible") == 1


class Scaled(nn.Linear):
    def forward(self, hidden):
        return super().forward(hidden) * 0.1


class Cast(nn.Linear):
    def forward(self, hidden):
        return super().forward(hidden.float())


def spectrum_of(run, matrix):
    return run.spectra[run.spectra["matrix"] == matrix]["values"].iloc[-1]


def test_a_subclass_of_linear_is_measured_by_what_it_returns(tmp_path):
    module = Foreign()
    module.model.lm_head = Scaled(WIDTH, VOCAB)
    train(module, recorder(tmp_path / "run"), steps=2)
    module.eval()
    rows = module(PROBE).double().log_softmax(-1).flatten(0, 1)
    rows = rows - rows.mean(1, keepdim=True)
    found = spectrum_of(load_run(tmp_path / "run"), "log_prob/centred")
    expected = torch.linalg.svdvals(rows - rows.mean(0))  # every context is distinct
    assert found[:8] == pytest.approx(expected[:8].tolist(), rel=1e-4)


def test_a_head_of_this_project_inside_a_foreign_module(tmp_path):
    module = Foreign()
    module.model.lm_head = MixtureOfSoftmaxes(WIDTH, VOCAB)
    train(module, recorder(tmp_path / "run"), steps=2)
    run = load_run(tmp_path / "run")
    assert not run.metrics["name"].str.startswith("failed").any()
    assert run.series("head/usage_entropy").iloc[-1] > 0


def test_code_that_the_user_wrote_may_fail_without_ending_the_run(tmp_path, capsys):
    module = Foreign()
    module.model.lm_head = Cast(WIDTH, VOCAB)  # float32 against the widened weight
    train(module, recorder(tmp_path / "run"), steps=2)
    assert load_run(tmp_path / "run").series("failed/LogProbSpectrum").iloc[0] == 1
    assert "LogProbSpectrum could not be measured at step 0: RuntimeError" in capsys.readouterr().err


class LastOnly(Foreign):
    def forward(self, tokens):
        return self.model.lm_head(input=self.model.layer(self.model.embedding(tokens))[:, -1])

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch), batch[:, 0])


def test_states_whose_positions_cannot_be_told_are_refused_by_name(tmp_path, capsys):
    train(LastOnly(), recorder(tmp_path / "run", layers=[]), steps=2)
    assert load_run(tmp_path / "run").series("failed/StateGeometry").iloc[0] == 1
    assert "reads 4 states of a probe set of 48 tokens" in capsys.readouterr().err


def test_two_recorders_keep_to_themselves(tmp_path):
    both = [recorder(tmp_path / name, measurements=[all_measurements()["HeadSpectrum"]()]) for name in "ab"]
    train(Foreign(), *both, steps=2).save_checkpoint(tmp_path / "saved.ckpt")
    train(Foreign(), *both, steps=4, ckpt_path=tmp_path / "saved.ckpt")
    for name in "ab":
        rows = load_run(tmp_path / name).series("head/weight/effective_rank")
        assert rows.index.tolist() == [0, 2, 4]


def test_of_two_measurements_of_one_class_the_last_counts(tmp_path):
    twice = [all_measurements()["HeadSpectrum"](), all_measurements()["HeadSpectrum"](When(at=[1]))]
    assert recorder(tmp_path, measurements=twice).measurements == twice[1:]


def test_minutes_and_a_stop_record_no_step_twice(tmp_path):
    always = When(every=None, per_doubling=0, minutes=1e-9)
    measurements = [all_measurements()["HeadSpectrum"]()]
    train(Foreign(), Stop(), recorder(tmp_path / "run", measurements=measurements, when=always))
    rows = load_run(tmp_path / "run").series("head/weight/effective_rank")
    assert rows.index.tolist() == [0, 1, 2, 3, 4]


def test_a_cut_gradient_counts_as_cut(tmp_path):
    from rankbound.heads import BackwardFactorized

    shares = {}
    for head in (Linear, lambda d, v: BackwardFactorized(d, v, rank=4)):
        torch.manual_seed(0)
        model = LanguageModel(GPT(VOCAB, hidden_size=WIDTH, num_hidden_layers=1), head)
        seen = ObservedRun(0, model.eval(), PROBE, TARGETS, run_dir=tmp_path)
        reading = all_measurements()["Retention"]()(seen)
        shares[model.head.label()] = float(reading.values["retention/share"])
    whole, cut = shares.values()
    assert cut < 0.6 * whole


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"targets": TARGETS[:, 1:]}, "targets are (4, 11) and the probe set (4, 12)"),
        ({"head": "model.lm_hed"}, "no module 'model.lm_hed'; did you mean model.lm_head"),
        ({"layers": ["model.layers"]}, "did you mean model.layer"),
        ({"probe": PROBE[:0]}, "the probe set is empty"),
    ],
)
def test_wrong_names_and_empty_probes_are_refused(tmp_path, settings, named):
    with pytest.raises(InputError, match=re.escape(named)):
        train(Foreign(), recorder(tmp_path / "run", **settings))


def test_without_targets_what_needs_them_fails_by_name(tmp_path, capsys):
    train(Foreign(), recorder(tmp_path / "run", targets=None), steps=2)
    assert load_run(tmp_path / "run").series("failed/Retention").iloc[0] == 1
    assert "the probe set has no targets" in capsys.readouterr().err


def test_spectra_are_histograms_in_tensorboard(tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path / "board")
    train(Foreign(), recorder(tmp_path / "run"), logger=logger)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir).Reload()
    assert "spectra/weight" in events.Tags()["histograms"]
    last = events.Histograms("spectra/weight")[-1]
    assert (last.step, last.histogram_value.num) == (6, WIDTH)
    assert "head/weight/effective_rank" in events.Tags()["scalars"]
