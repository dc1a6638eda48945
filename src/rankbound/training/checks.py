"""Settings completed from the corpus, and those of the trainer that would be ignored or would lie.

Lightning's trainer has settings for things that this project decides (the sample order, accumulation) or
does otherwise (evaluation, clipping, checkpoints). Each is refused with the setting to use instead: one
that is silently ignored would stand in the recorded config as if it had been used.
"""

from __future__ import annotations

from typing import Any

from rankbound.corpora import Corpus
from rankbound.corpora.generated import Generated
from rankbound.errors import InputError

#: Settings of Lightning's trainer that this project decides or does otherwise: the one value each may have
#: in `fit`, and what to set instead.
FIXED: dict[str, tuple[Any, str]] = {
    "accumulate_grad_batches": (1, "it follows from data.batch_size and data.micro_batch_size"),
    "barebones": (False, "there would be no record"),
    "check_val_every_n_epoch": (1, "set evaluate.every"),
    "enable_checkpointing": (None, "set checkpoints.every"),
    "fast_dev_run": (False, "set model.total_steps"),
    "gradient_clip_algorithm": (None, "set model.gradient_clip"),
    "gradient_clip_val": (None, "set model.gradient_clip"),
    "limit_train_batches": (None, "set model.total_steps"),
    "limit_val_batches": (None, "set data.valid_windows"),
    "log_every_n_steps": (None, "set train_log.every"),
    "max_epochs": (None, "set model.total_steps"),
    "min_epochs": (None, "set model.total_steps"),
    "min_steps": (None, "set model.total_steps"),
    "overfit_batches": (0.0, "prepare a smaller corpus"),
    "reload_dataloaders_every_n_epochs": (0, "the sample order is a function of the step"),
    "use_distributed_sampler": (False, "the corpus shares itself out"),
    "val_check_interval": (None, "set evaluate.every"),
}
PRECISIONS = ("32-true", "bf16-mixed", "64-true")
STRATEGIES = ("auto", "ddp")


def complete(settings: Any, corpus: Corpus | Generated) -> None:
    """Fill in what the corpus decides; raise where the settings say otherwise."""
    if settings.data.corpus_sha256 is None:
        settings.data.corpus_sha256 = corpus.sha256
    if settings.model.vocab_size is None:
        settings.model.vocab_size = corpus.vocab_size
    elif settings.model.vocab_size != corpus.vocab_size:
        raise InputError(
            f"model.vocab_size is {settings.model.vocab_size}, but {settings.data.corpus} has a vocabulary "
            f"of {corpus.vocab_size}; leave it out, or prepare a corpus with --vocab_size "
            f"{settings.model.vocab_size}"
        )


def check_trainer(settings: Any) -> None:
    """Raise where a setting of the trainer would be ignored, or would break what a run promises."""
    trainer = settings.trainer
    for name, (value, instead) in FIXED.items():
        if trainer[name] != value:
            raise InputError(f"trainer.{name} is {trainer[name]} and has no place here: {instead}")
    precision = "32-true" if trainer.precision is None else str(trainer.precision)
    if precision not in (*PRECISIONS, "32"):
        raise InputError(f"trainer.precision {precision} is not supported; use {', '.join(PRECISIONS)}")
    if (strategy := trainer.strategy) not in STRATEGIES:
        raise InputError(f"trainer.strategy {strategy} is not supported; use {', '.join(STRATEGIES)}")
    if (settings.tensorboard or settings.wandb) and trainer.logger not in (None, False):
        raise InputError("trainer.logger is set beside a flag for a logger; list all in trainer.logger")
    if settings.data.window > settings.model.max_position_embeddings:
        raise InputError(
            f"data.window is {settings.data.window}, longer than model.max_position_embeddings = "
            f"{settings.model.max_position_embeddings}; change one of them"
        )
