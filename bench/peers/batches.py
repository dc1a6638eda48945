"""Write the batches that `rankbound fit` reads at its default seed, for loops that know nothing of it.

    python bench/peers/batches.py '{"corpus": ..., "sizes": {"window": ...}, "batch_size": ..., ...}'

The output is an .npy file, (steps, batch_size, window + 1), uint16 or uint32: inputs and, one further,
targets.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from rankbound.corpora import Corpus
from rankbound.corpora.data import Windows
from rankbound.corpora.windows import SampleOrder

if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    window = task["sizes"]["window"]
    corpus = Corpus(task["corpus"])
    tokens = corpus.tokens("train")
    windows = Windows(corpus, "train", window)
    order = SampleOrder(len(windows), task["batch_size"], seed=0)
    starts = np.stack([order.batch(step) for step in range(task["steps"])]) * window
    np.save(task["batches"], tokens[starts[..., None] + np.arange(window + 1)])
    print(json.dumps({"windows": len(windows)}))
