"""A run small enough to train many times."""

import pytest

STEPS = 24


@pytest.fixture
def small(corpus):
    """Arguments of a small run with every source of randomness and every kind of row."""
    return [
        *("--data.corpus", corpus, "--data.window", 16, "--data.batch_size", 4, "--data.valid_windows", 12),
        *("--model.hidden_size", 16, "--model.num_attention_heads", 2, "--model.num_hidden_layers", 1),
        *("--model.dropout", 0.1, "--model.total_steps", STEPS, "--model.schedule.warmup_steps", 4),
        *("--train_log.every", 3, "--recorder.when.every", 5, "--recorder.probe_windows", 4),
        *("--evaluate.every", 4, "--checkpoints.every", 4, "--model.compile", "never"),
    ]
