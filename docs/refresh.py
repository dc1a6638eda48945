"""Run the commands that docs/heads.md names and put what they print into the page.

python docs/refresh.py
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent / "heads.md"
BLOCK = re.compile(r"(<!-- (rankbound .*?) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def printed(found: re.Match[str]) -> str:
    """A block with what its command prints now."""
    arguments = shlex.split(found[2])[1:]
    done = subprocess.run(
        [sys.executable, "-m", "rankbound.cli", *arguments], check=True, capture_output=True, text=True
    )
    return f"{found[1]}{done.stdout.strip()}\n{found[3]}"


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(printed, PAGE.read_text()))
