"""The model card of an exported model: what it is, how to load it, what its run measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import rankbound
from rankbound.pretrained.pretrained import Pretrained
from rankbound.runs import Run

#: Figures of a run's summary, in the order of the table: name, title, format.
_FIGURES = (
    ("step", "Steps", "{:,.0f}"),
    ("tokens", "Training tokens", "{:,.0f}"),
    ("train/loss", "Training loss, nats per token", "{:.4f}"),
    ("valid/loss", "Validation loss, nats per token", "{:.4f}"),
    ("valid/bits_per_byte", "Validation bits per byte", "{:.4f}"),
)


def model_card(found: Pretrained, native: bool) -> str:
    """Markdown with the hub's metadata; `native` where `transformers` itself loads the model."""
    lines = [*_metadata(native), f"# {found.name}", "", *_description(found), "", *_loading(found, native)]
    if found.run is not None:
        lines += ["", *_training(found.run, found.step)]
    return "\n".join([*lines, "", f"Exported by rankbound {rankbound.__version__}.", ""])


def _metadata(native: bool) -> Iterator[str]:
    library = "transformers" if native else "rankbound"
    yield from ("---", f"library_name: {library}", "pipeline_tag: text-generation", "tags:")
    yield from ("- rankbound", "---", "")


def _description(found: Pretrained) -> Iterator[str]:
    model, counts = found.model, found.model.parameter_counts()
    bound = model.head.rank_bound
    yield "| | |"
    yield "|---|---|"
    yield f"| Head | {model.head.label()} |"
    yield f"| Largest rank of its log-probabilities | {'any' if bound is None else f'{bound:,}'} |"
    yield f"| Hidden size | {model.body.hidden_size:,} |"
    yield f"| Blocks | {len(model.body.blocks)} |"
    yield f"| Vocabulary | {model.body.embedding.num_embeddings:,} |"
    yield f"| Tokens read at once in training | {found.context:,} |"
    for part, count in counts.items():
        yield f"| Parameters, {part} | {count:,} |"
    yield f"| Tokenizer | {'in this folder' if found.tokenizer else 'none'} |"


def _loading(found: Pretrained, native: bool) -> Iterator[str]:
    yield "## Loading"
    yield ""
    yield "```python"
    if native:
        yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
        yield ""
        yield 'model = AutoModelForCausalLM.from_pretrained("FOLDER")'
        if found.tokenizer is not None:
            yield 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")'
    else:
        yield "from rankbound.pretrained.load import load_pretrained"
        yield ""
        yield 'model = load_pretrained("FOLDER").model  # tokens -> log-probabilities'
    yield "```"
    yield ""
    begin = "" if found.end_of_text is None else f" Documents begin after token {found.end_of_text}."
    made = "" if found.tokenizer is None else ", which `rankbound prepare --tokenizer FOLDER` makes"
    yield (
        "To train it on: `rankbound fit --config FOLDER/training.yaml --init_weights FOLDER --data.corpus "
        f"CORPUS`{made}.{begin}"
    )


def _training(run: Run, step: int | None) -> Iterator[str]:
    yield "## Training"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| Corpus | {(run.config.get('derived') or {}).get('corpus_name', 'unknown')} |"
    yield f"| Its sha256 | {run.config['data'].get('corpus_sha256')} |"
    yield f"| Seed | {run.config.get('seed_everything')} |"
    if run.config.get("init_weights"):
        yield f"| Started from the weights of | {run.config['init_weights']} |"
    figures: Mapping[str, float] = run.summary if step is None else _figures_at(run, step)
    for name, title, form in _FIGURES:
        value = figures.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            yield f"| {title} | {form.format(value)} |"
    if not run.summary:
        yield "| State | not finished |"


def _figures_at(run: Run, step: int) -> dict[str, float]:
    """What was recorded at a step."""
    rows = run.metrics[run.metrics["step"] == step]
    recorded = dict(zip(rows["name"], rows["value"], strict=True))
    return recorded | {"step": step} | ({"tokens": int(rows["tokens"].iloc[0])} if len(rows) else {})
