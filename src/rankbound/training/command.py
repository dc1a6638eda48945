"""`rankbound fit` and `validate`: LightningCLI with this project's callbacks and checks.

Design decisions:
- Every setting is a typed constructor argument; the classes are the configuration's schema.
- Before anything is made, the settings are completed from the corpus (`model.vocab_size`,
  `data.corpus_sha256`), so that the recorded config is the whole run and two that clash are named; a size
  solved to match a budget is recorded as an ordinary setting.
- The order of callbacks is the order of a step's end: rows, record, evaluation, random state, checkpoint.
- The run folder writes its own config: LightningCLI's would refuse to resume, or overwrite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from rankbound import runs
from rankbound.corpora.data import TokenData
from rankbound.corpora.generated import open_corpus
from rankbound.errors import InputError
from rankbound.parser import Parser
from rankbound.training.checkpoint_io import AtomicCheckpointIO, check_intact
from rankbound.training.checkpoints import Checkpoints
from rankbound.training.checks import check_trainer, complete
from rankbound.training.evaluate import Evaluate
from rankbound.training.initial import StartFrom, start
from rankbound.training.match_options import MATCH_OPTIONS, add_match_options, solve_match
from rankbound.training.measurements import DEFAULT
from rankbound.training.memory import keep_freed_memory
from rankbound.training.module import Pretraining
from rankbound.training.progress import ProgressBar
from rankbound.training.random_state import RandomState
from rankbound.training.record import RunRecord
from rankbound.training.recorder import Recorder
from rankbound.training.steps import launched_first
from rankbound.training.train_log import TrainLog

COMMANDS = ("fit", "validate")

#: Top-level settings of a command line that are not the run's own.
NOT_THE_RUN = (
    "config",
    "run_dir",
    "ckpt_path",
    "weights_only",
    "tensorboard",
    "wandb",
    "derived",
    *MATCH_OPTIONS,
    "verbose",
)


class _Parser(Parser, LightningArgumentParser):
    """LightningCLI's parser with this project's errors."""


class TrainingCLI(LightningCLI):
    """One command line of `fit` or `validate`; running is part of making it.

    `start_from` does what `--init_weights` asks for.
    """

    def __init__(self, start_from: StartFrom) -> None:
        self._start_from = start_from
        keep_freed_memory()
        super().__init__(
            Pretraining,
            TokenData,
            parser_class=_Parser,
            parser_kwargs={command: {"allow_abbrev": False} for command in COMMANDS},
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,
            },
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule", "verbose"}
        return dict.fromkeys(COMMANDS, skipped)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("model.total_steps", "trainer.max_steps")
        parser.add_lightning_class_args(TrainLog, "train_log")
        parser.add_lightning_class_args(Recorder, "recorder")
        parser.set_defaults({"recorder.measurements": [{"class_path": name} for name in DEFAULT]})
        parser.add_lightning_class_args(Evaluate, "evaluate")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_argument(
            "--run_dir",
            type=Path | None,
            default=None,
            help="The run folder; checkpoints/fit/HEAD-dWIDTH-seedN if not given.",
        )
        parser.add_argument(
            "--init_weights",
            type=str | None,
            default=None,
            help="Start from this model's weights instead of random ones: a run or a checkpoint of it, a "
            "folder that rankbound export or transformers wrote, or a Hugging Face id.",
        )
        parser.add_argument("--tensorboard", type=bool, default=False, help="Log to TensorBoard too.")
        parser.add_argument("--wandb", type=bool, default=False, help="Log to Weights & Biases too.")
        parser.add_argument(
            "--derived",
            type=dict | None,
            default=None,
            help="What the settings must work out to, as a recorded config.yaml says; checked.",
        )
        add_match_options(parser)

    @property
    def settings(self) -> Any:
        """The parsed settings of the command at hand."""
        return self.config[self.subcommand]

    def before_instantiate_classes(self) -> None:
        settings = self.settings
        corpus = open_corpus(settings.data.corpus)
        complete(settings, corpus)
        check_trainer(settings)
        if self.subcommand == "validate" and settings.ckpt_path is None:
            raise InputError("validate needs a checkpoint: name it with --ckpt_path RUN/last.ckpt")
        solve_match(settings)
        settings.weights_only = True
        settings.run_dir = run_dir(settings)
        if settings.ckpt_path is not None:
            settings.ckpt_path = str(checkpoint(settings))
        if self.subcommand == "fit" and launched_first():
            _check_free(settings)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        settings = self.settings
        loggers = list(_loggers(settings))
        try:
            trainer = super().instantiate_trainer(**({"logger": loggers} if loggers else {}), **kwargs)
        except (MisconfigurationException, ModuleNotFoundError, ValueError) as wrong:
            raise InputError(f"trainer: {' '.join(str(wrong).split())}") from wrong
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if self.subcommand == "fit":
            trainer.limit_val_batches = 0  # Evaluate does it, before the checkpoint
            start(settings, self.model.model, self.datamodule.corpus, self._start_from)
            record = RunRecord(settings.run_dir, self._run_settings(), settings.ckpt_path is not None)
            callbacks = [record, *trainer.callbacks, RandomState(), ProgressBar()]  # type: ignore[attr-defined]
            last = [c for c in callbacks if isinstance(c, Checkpoints)]
            trainer.callbacks = [c for c in callbacks if c not in last] + last  # type: ignore[attr-defined]
        return trainer

    def after_fit(self) -> None:
        folder = self.settings.run_dir
        print(f"The run is in {folder}; look at it with: rankbound compare {folder}")

    def _run_settings(self) -> dict[str, Any]:
        """Every setting that defines the run, as plain data."""
        dumped = yaml.safe_load(self._parser(self.subcommand).dump(self.settings, skip_none=False))
        settings = {key: value for key, value in dumped.items() if key not in NOT_THE_RUN}
        if self.settings.derived:
            settings["derived"] = dict(self.settings.derived)
        return settings


def run_dir(settings: Any) -> Path:
    """The run folder that the command line names, or the one it implies."""
    if settings.run_dir is not None:
        return Path(settings.run_dir)
    if settings.ckpt_path not in (None, "last"):
        return Path(settings.ckpt_path).parent
    head = settings.model.head
    name = str(getattr(head, "class_path", None) or getattr(head, "__name__", head))
    parts = (name.rpartition(".")[2], f"d{settings.model.hidden_size}", f"seed{settings.seed_everything}")
    return Path("checkpoints/fit") / "-".join(parts)


def checkpoint(settings: Any) -> Path:
    """The checkpoint that `--ckpt_path` names, checked to be whole."""
    path = Path(settings.ckpt_path)
    if settings.ckpt_path == "last":
        path = settings.run_dir / runs.LAST_CHECKPOINT
    check_intact(path)
    return path


def _check_free(settings: Any) -> None:
    folder: Path = settings.run_dir
    started = (folder / runs.CONFIG).exists()
    if settings.ckpt_path is not None and not started:
        raise InputError(f"{folder} holds no run to resume: it has no {runs.CONFIG}; name its --run_dir")
    if settings.ckpt_path is None and started:
        saved = (folder / runs.LAST_CHECKPOINT).exists()
        mend = "resume it with --ckpt_path last" if saved else "it has no checkpoint, so remove it"
        raise InputError(f"{folder} holds a run already; {mend}, or choose another --run_dir")


def _loggers(settings: Any) -> list[Any]:
    """TensorBoard and Weights & Biases, where their flags ask for them."""
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    made: list[Any] = []
    for flag, package, logger in (
        ("tensorboard", "tensorboard", TensorBoardLogger),
        ("wandb", "wandb", WandbLogger),
    ):
        if not settings[flag]:
            continue
        try:
            made.append(
                logger(save_dir=settings.run_dir, name=None if flag == "tensorboard" else "rankbound")
            )
        except ModuleNotFoundError as missing:
            raise InputError(
                f"--{flag} needs the package {package}: pip install 'rankbound[{package}]'"
            ) from missing
    return made
