"""Text to tokens on disk, and tokens to batches.

`rankbound.corpora.data` holds the Lightning data module and is imported by its own name: preparing
and reading a corpus needs neither PyTorch nor Lightning.
"""

from rankbound.corpora.corpus import Card, Corpus
from rankbound.corpora.prepare import prepare
from rankbound.corpora.windows import SampleOrder, count_windows

__all__ = ["Card", "Corpus", "SampleOrder", "count_windows", "prepare"]
