"""Run the commands that pages name in their blocks and put what they print there.

python docs/refresh.py             # heads.md and metrics.md
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGES = ("heads.md", "metrics.md")
BLOCK = re.compile(
    r"(<!-- ((?:rankbound|python bench/accuracy.py).*?) -->\n).*?(<!-- end -->)", flags=re.DOTALL
)


def printed(found: re.Match[str]) -> str:
    """A block with what its command prints now."""
    program, *arguments = shlex.split(found[2])
    module = ["-m", "rankbound.cli"] if program == "rankbound" else []
    done = subprocess.run([sys.executable, *module, *arguments], check=True, capture_output=True, text=True)
    return f"{found[1]}{done.stdout.strip()}\n{found[3]}"


if __name__ == "__main__":
    for page in (Path(__file__).parent / name for name in PAGES):
        page.write_text(BLOCK.sub(printed, page.read_text()))
