"""Names of all heads, for a parent that does not import torch: python bench/peers/head_names.py '{}'."""

from __future__ import annotations

import json

from rankbound.heads import all_heads

if __name__ == "__main__":
    print(json.dumps({"names": list(all_heads())}))
