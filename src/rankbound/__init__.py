"""rankbound: is a small language model limited by the rank of its head?"""

from rankbound.errors import InputError
from rankbound.runs import Run, load_run

__all__ = ["InputError", "Run", "load_run"]
__version__ = "0.1.0"
