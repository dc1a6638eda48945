"""The LightningModule: one training step, evaluation, optimiser and schedule.

Design decisions:
- The model inside is plain PyTorch; the trunk and the head's chunked loss are compiled apart from each
  other and from this class. Their compiled forms stay out of the module tree, so that a checkpoint's
  names do not depend on a speed setting.
- Clipping is done here: Lightning refuses to clip for a fused AdamW under mixed precision.
- Losses are gathered on `step_losses` for a callback to read; `self.log` costs 0.4 ms a step.
- Total steps are a setting, which the trainer's limit follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L  # noqa: N812
import torch
from torch import Tensor

from rankbound.errors import InputError
from rankbound.heads import ChunkedLoss, Head
from rankbound.heads.backends import Backend
from rankbound.heads.linear import Linear
from rankbound.metrics import TokenLoss
from rankbound.model import GPT
from rankbound.training.compiling import CompileMode, missing_compiler, pays
from rankbound.training.language_model import LanguageModel
from rankbound.training.optimizer import AdamW
from rankbound.training.schedules import Cosine, Schedule

Batch = tuple[Tensor, Tensor]


class Pretraining(L.LightningModule):
    """Pretrains a `GPT` with any head.

    Args:
        vocab_size: number of tokens; the corpus's if not given.
        total_steps: optimiser steps of the whole run, which the schedule and the trainer follow.
        head: factory of the head, by class name or path.
        tie_word_embeddings: let the head read with the embedding's matrix.
        optimizer: settings of AdamW.
        schedule: factory of the learning-rate schedule, by class name or path.
        gradient_clip: largest norm of the whole gradient; none if not given.
        compile: torch.compile for trunk and loss; `auto` where it pays and a compiler is found.
        logit_budget: logits that the loss holds at once; by default chosen by device.
        z_loss: weight of the squared log-normaliser in what is minimised; not in the reported loss.
        label_smoothing: share of the target spread over the vocabulary; not in the reported loss either.
        loss_backend: whose loss of a plain linear head: this project's `own`, or `torch`'s.
        body: settings of `GPT`.
    """

    _trunk: Callable[[Tensor], Tensor]
    _loss: ChunkedLoss

    def __init__(
        self,
        vocab_size: int | None = None,
        total_steps: int = 300,
        head: Callable[[int, int], Head] = Linear,
        tie_word_embeddings: bool = False,
        optimizer: AdamW = AdamW(),  # noqa: B008  (frozen)
        schedule: Callable[[int], Schedule] = Cosine,
        gradient_clip: float | None = 1.0,
        compile: CompileMode = "auto",
        logit_budget: int | None = None,
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
        loss_backend: Backend = "own",
        **body: Any,
    ) -> None:
        super().__init__()
        if vocab_size is None:
            raise InputError("vocab_size is not set; give the corpus's")
        if gradient_clip is not None and gradient_clip <= 0:
            raise InputError(f"gradient_clip is {gradient_clip}; it must be positive, or null for none")
        self.total_steps = total_steps
        self.model = LanguageModel(GPT(vocab_size, **body), head, tie_word_embeddings)
        self.optimizer_settings = optimizer
        self.schedule = schedule(total_steps)
        self.gradient_clip = gradient_clip
        self.compile_mode: CompileMode = compile
        self.loss_settings: dict[str, Any] = {
            "logit_budget": logit_budget,
            "z_loss": z_loss,
            "label_smoothing": label_smoothing,
            "backend": loss_backend,
        }
        self.step_losses: list[Tensor] = []
        self.gradient_norm: Tensor | None = None
        self._metric: TokenLoss | None = None
        self._prepare_fast_paths(compiled=False)

    def setup(self, stage: str) -> None:
        self._prepare_fast_paths(compiled=self._compiles())

    def _compiles(self) -> bool:
        device, precision = self.trainer.strategy.root_device, str(self.trainer.precision)
        wanted = self.compile_mode == "always" or (self.compile_mode == "auto" and pays(device, precision))
        missing = missing_compiler(device)
        if wanted and missing:
            if self.compile_mode == "always":
                raise InputError(f"model.compile is 'always', but {missing}; install one or use 'auto'")
            if self.global_rank == 0:
                print(f"Running eagerly, slower: {missing}", flush=True)
        return wanted and missing is None

    def _prepare_fast_paths(self, compiled: bool) -> None:
        trunk = self.model.body.trunk
        fast = {
            "_trunk": torch.compile(trunk, dynamic=False) if compiled else trunk,
            "_loss": ChunkedLoss(self.model.head, compile=compiled, **self.loss_settings),
        }
        for name, path in fast.items():
            object.__setattr__(self, name, path)  # not a submodule: see the module's docstring

    def hidden(self, tokens: Tensor) -> Tensor:
        """The head's input, by the fast path: (B, T) -> (B T, D)."""
        return self._trunk(self.model.body.embed(tokens)).flatten(0, 1)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.model.head.before_step(self.trainer.global_step)  # the same for every micro-batch of a step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        tokens, targets = batch
        loss, nll = self._loss.with_nll(self.hidden(tokens), targets.flatten())
        self.step_losses.append(nll)
        return loss

    @torch.no_grad()
    def evaluate(self, batch: Batch, metric: TokenLoss) -> None:
        """Add a batch to `metric`."""
        tokens, targets = batch
        flat = targets.flatten()
        metric.update(self._loss.rows(self.hidden(tokens), flat), flat)

    def token_loss(self) -> TokenLoss:
        """An empty metric for the corpus at hand, on the model's device."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return TokenLoss(torch.as_tensor(data.corpus.token_bytes)).to(self.device)

    def on_validation_epoch_start(self) -> None:
        object.__setattr__(self, "_metric", self.token_loss())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert self._metric is not None
        self.evaluate(batch, self._metric)

    def on_validation_epoch_end(self) -> None:
        assert self._metric is not None
        self.log_dict({f"valid/{k}": v.float() for k, v in self._metric.compute().items()})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        theirs, ours = (
            {name: tuple(value.shape) for name, value in state.items()}
            for state in (checkpoint["state_dict"], self.state_dict())
        )
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name):
                there, here = theirs.get(name, "missing"), ours.get(name, "missing")
                raise InputError(
                    f"the checkpoint is not of this model: {name} is {there} there and {here} here; "
                    "give its run's settings with --config RUN/config.yaml"
                )

        self._align_progress(checkpoint)

    def _align_progress(self, checkpoint: dict[str, Any]) -> None:
        """Count finished batches by this run's accumulation, which the devices at hand decide.

        Lightning steps where the batches it has seen divide by it: left as saved, a run resumed on another
        number of devices would step in the middle of a batch.
        """
        if self.trainer.state.fn != "fit":
            return
        finished = checkpoint["global_step"] * self.trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        for name in progress:
            progress[name] += finished - progress["ready"] if name != "ready" else 0
        progress["ready"] = finished

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_settings.build(self.model)
        # a lambda: LambdaLR would save a callable object's attributes with the optimiser
        schedule = self.schedule
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        limit = float("inf") if self.gradient_clip is None else self.gradient_clip
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.parameters(), limit)
