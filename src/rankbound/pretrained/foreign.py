"""Any causal language model of `transformers`, for its states and its output matrix alone.

What a model does between its last states and its logits is not asked of its config but tried: its logits
on a few tokens must be c tanh((W h + b) / c), without the cap where it has none. A model that scales its
logits besides gets the scale into W and b; one that does anything else is refused, as its head would not be
what is measured. So is one whose logits look ahead: a masked model is no predictor of the next token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rankbound.errors import InputError
from rankbound.pretrained.hub import download, is_hub_id
from rankbound.pretrained.pretrained import begins, read_tokenizer
from rankbound.pretrained.weights import CONFIG, read_json

_TOKENS = 8  # of the trial


@dataclass(frozen=True)
class ForeignModel:
    """States and head of a model that is not of this project's body; in evaluation mode on the CPU.

    - `weight` (V, D), `bias` (V,) or None, `soft_cap` c or None: logits are c tanh((W h + b) / c)
    - `name`, `tokenizer`, `context`, `end_of_text`: as of `Pretrained`
    """

    weight: Tensor
    bias: Tensor | None
    soft_cap: float | None
    name: str
    tokenizer: Tokenizer | None
    context: int
    end_of_text: int | None
    _model: Any
    _readout: torch.nn.Module

    def hidden(self, tokens: Tensor) -> Tensor:
        """What the head reads: (B, T) int64 -> (B, T, D) float32."""
        return self.layers(tokens)["head_input"]

    def layers(self, tokens: Tensor) -> dict[str, Tensor]:
        """Every hidden state (B, T, D) float32 by name: `0` the embedding, `i` after block i, `head_input`.

        The last block's is as `transformers` gives it: of most families after the final norm.
        """
        return self._run(tokens)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """(.., D) -> (.., V)."""
        logits = F.linear(hidden, self.weight, self.bias)
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)

    @torch.inference_mode()
    def _run(self, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """States by name, and the model's own logits."""
        read: list[Tensor] = []
        hook = self._readout.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            said = self._model(tokens, output_hidden_states=True, use_cache=False)
        finally:
            hook.remove()
        states = {str(i): state.float() for i, state in enumerate(said.hidden_states)}
        return states | {"head_input": read[-1].float()}, said.logits.float()


def load_foreign(source: str, revision: str | None = None) -> ForeignModel:
    """Load a causal language model that `transformers` itself has the code of.

    Args:
        source: a `transformers` folder, or an id on the Hugging Face hub.
        revision: branch, tag or commit on the hub.

    Raises:
        InputError: no such model, one with code of its own, damaged weights, or logits that are not a
            linear map of the states.
    """
    path = Path(source)
    if not path.is_dir():
        if not is_hub_id(source):
            raise InputError(f"{source} does not exist, and it is no Hugging Face id (owner/name)")
        path = download(source, revision)
    name = f"{source}@{revision}" if revision else source
    config = read_json(path / CONFIG)
    model = _transformers_model(path, config, name)
    readout = model.get_output_embeddings()
    if not isinstance(readout, torch.nn.Linear):
        raise InputError(f"{name} has no output matrix that its states are read with")
    text = model.config.get_text_config()
    found = ForeignModel(
        weight=readout.weight.detach(),
        bias=None if readout.bias is None else readout.bias.detach(),
        soft_cap=getattr(text, "final_logit_softcapping", None),
        name=name,
        tokenizer=read_tokenizer(path),
        context=getattr(text, "max_position_embeddings", None) or 2048,
        end_of_text=begins({"vocab_size": text.vocab_size, **config}),
        _model=model,
        _readout=readout,
    )
    return _checked(found)


def _transformers_model(path: Path, config: Mapping[str, Any], name: str) -> Any:
    try:
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM
        from transformers.utils import logging
    except ImportError as missing:
        raise InputError(
            f"{name} is read by transformers, which is not installed: pip install 'rankbound[hf]'"
        ) from missing
    if config.get("model_type") not in CONFIG_MAPPING:
        raise InputError(
            f"{name} is of model_type {config.get('model_type')}, which transformers has no code of, and "
            "code that comes with a checkpoint is not run"
        )
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # what is wrong is said below, in one line
    auto: Any = AutoModelForCausalLM
    try:
        model, found = auto.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except Exception as failure:  # of many kinds, from files, configs and code
        why = " ".join(str(failure).split())[:200]
        raise InputError(f"{name} cannot be loaded by transformers: {why}") from failure
    if absent := sorted(found["missing_keys"]):
        raise InputError(f"{name} lacks {len(absent)} tensors, such as {absent[0]}")
    broken = [key for key, value in model.named_parameters() if not value.isfinite().all()]
    if broken:
        raise InputError(f"{name}: its tensor {broken[0]} holds NaN or infinite numbers")
    return model.eval()


def _checked(model: ForeignModel) -> ForeignModel:
    """The model with its scale of logits in the head; raises where more than a scale is missing."""
    tokens = torch.arange(_TOKENS)[None] % len(model.weight)
    states, theirs = model._run(tokens)
    if _looks_ahead(model, tokens, theirs):
        raise InputError(f"{model.name} sees the tokens that follow: it does not predict the next one")
    ours = model.logits(states["head_input"])
    scale = float((ours * theirs).sum() / ours.square().sum())
    tolerance = 1e-4 * max(1.0, float(theirs.abs().max()))
    if (ours - theirs).abs().max() <= tolerance:
        return model
    if model.soft_cap is None and (scale * ours - theirs).abs().max() <= tolerance:
        bias = None if model.bias is None else model.bias * scale
        return ForeignModel(**{**vars(model), "weight": model.weight * scale, "bias": bias})
    raise InputError(
        f"the logits of {model.name} are not a linear map of its states, nor a soft cap of one: its head "
        "cannot be measured"
    )


def _looks_ahead(model: ForeignModel, tokens: Tensor, logits: Tensor) -> bool:
    """Whether another last token changes the logits of those before it."""
    others = torch.cat((tokens[:, :-1], tokens[:, :1]), dim=1)
    changed = (model._run(others)[1] - logits)[:, :-1].abs().max()
    return float(changed) > 1e-4 * max(1.0, float(logits.abs().max()))
