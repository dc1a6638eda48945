"""llama2.c binaries against a forward pass of their own in NumPy, written from the format."""

import itertools
import struct

import numpy as np
import pytest
import torch

from rankbound import InputError
from rankbound.pretrained.export import export
from rankbound.pretrained.load import load_pretrained

DIM, HIDDEN, LAYERS, HEADS, SHARED, VOCAB, LENGTH = 24, 40, 2, 6, 2, 300, 32
SIZE = DIM // HEADS

SHAPES = {
    "embedding": (VOCAB, DIM),
    "attention_norm": (LAYERS, DIM),
    "wq": (LAYERS, DIM, DIM),
    "wk": (LAYERS, SHARED * SIZE, DIM),
    "wv": (LAYERS, SHARED * SIZE, DIM),
    "wo": (LAYERS, DIM, DIM),
    "ffn_norm": (LAYERS, DIM),
    "w1": (LAYERS, HIDDEN, DIM),
    "w2": (LAYERS, DIM, HIDDEN),
    "w3": (LAYERS, HIDDEN, DIM),
    "norm": (DIM,),
    "unused": (LENGTH, SIZE),
    "output": (VOCAB, DIM),
}
OLD_ORDER = list(SHAPES)
NEW_ORDER = ["attention_norm", "ffn_norm", "norm", "embedding", *OLD_ORDER[2:6], "w1", "w2", "w3", "output"]


def weights():
    rng = np.random.default_rng(0)
    return {name: rng.normal(0.1, 0.3, shape).astype("<f4") for name, shape in SHAPES.items()}


def write(path, arrays, version=0, tied=False):
    numbers = (DIM, HIDDEN, LAYERS, HEADS, SHARED)
    if version == 0:
        header = struct.pack("<7i", *numbers, VOCAB if tied else -VOCAB, LENGTH)
    else:
        header = struct.pack("<Ii7iB", 0x616B3432, version, *numbers, VOCAB, LENGTH, tied).ljust(256, b"\0")
    order = OLD_ORDER if version == 0 else NEW_ORDER
    kept = [arrays[name].tobytes() for name in order if not (tied and name == "output")]
    path.write_bytes(header + b"".join(kept))
    return path


def forward(w, tokens, tied=False):
    """Log-probabilities (T, V) in float64, position by position."""

    def norm(x, gain):
        return x / np.sqrt((x * x).mean() + 1e-5) * gain

    def turn(x, position):
        x = x.reshape(-1, SIZE // 2, 2)
        angle = position * 10000.0 ** (-np.arange(0, SIZE, 2) / SIZE)
        cos, sin = np.cos(angle), np.sin(angle)
        pairs = (x[..., 0] * cos - x[..., 1] * sin, x[..., 0] * sin + x[..., 1] * cos)
        return np.stack(pairs, -1).reshape(-1, SIZE)

    w = {name: array.astype(np.float64) for name, array in w.items()}
    keys, values = [[] for _ in range(LAYERS)], [[] for _ in range(LAYERS)]
    rows = []
    for position, token in enumerate(tokens):
        x = w["embedding"][token].copy()
        for i in range(LAYERS):
            h = norm(x, w["attention_norm"][i])
            query = turn(w["wq"][i] @ h, position)
            keys[i].append(turn(w["wk"][i] @ h, position))
            values[i].append((w["wv"][i] @ h).reshape(-1, SIZE))
            mixed = []
            for head in range(HEADS):
                group = head * SHARED // HEADS
                scores = np.array([k[group] @ query[head] for k in keys[i]]) / np.sqrt(SIZE)
                share = np.exp(scores - scores.max())
                share /= share.sum()
                mixed.append(sum(s * v[group] for s, v in zip(share, values[i], strict=True)))
            x += w["wo"][i] @ np.concatenate(mixed)
            h = norm(x, w["ffn_norm"][i])
            gate = w["w1"][i] @ h
            x += w["w2"][i] @ (gate / (1 + np.exp(-gate)) * (w["w3"][i] @ h))
        logits = w["embedding" if tied else "output"] @ norm(x, w["norm"])
        rows.append(logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
    return np.array(rows)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("tied", [False, True])
def test_it_says_what_the_format_says(version, tied, tmp_path):
    arrays = weights()
    found = load_pretrained(str(write(tmp_path / "m.bin", arrays, version, tied)))
    tokens = np.random.default_rng(1).integers(0, VOCAB, 20)
    with torch.no_grad():
        ours = found.model(torch.from_numpy(tokens)[None])[0]
    assert np.allclose(ours.numpy(), forward(arrays, tokens, tied), atol=1e-4)
    assert (found.context, found.end_of_text, found.tokenizer) == (LENGTH, 1, None)
    owner = found.model.body.embedding.weight
    assert (found.model.head.weight is owner) == tied


def test_it_goes_out_as_llama(tmp_path):
    transformers = pytest.importorskip("transformers")
    arrays = weights()
    found = load_pretrained(str(write(tmp_path / "m.bin", arrays)))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export(found, tmp_path / "out"))
    tokens = np.arange(20)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(tokens)[None]).logits[0].log_softmax(-1)
    assert np.allclose(logits.numpy(), forward(arrays, tokens), atol=1e-4)


PIECES = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
MERGED = [" t", "he", " the", " a"]
SYMBOLS = [" ", "t", "h", "e", "a", "n", "d"]


def write_tokenizer(path, pieces):
    content = struct.pack("<i", max(map(len, pieces)))
    for i, piece in enumerate(pieces):
        score = 0.0 if i < 259 else 259.0 - i
        content += struct.pack("<fi", score, len(piece.encode())) + piece.encode()
    path.write_bytes(content)


def merged(text, pieces):
    """llama2.c's own way: again and again the neighbours whose piece has the best score."""
    ids = [pieces.index(c) if c in pieces else [b + 3 for b in c.encode()] for c in " " + text]
    ids = [i for group in ids for i in (group if isinstance(group, list) else [group])]
    while True:
        pairs = [(pieces[a] + pieces[b], at) for at, (a, b) in enumerate(itertools.pairwise(ids))]
        known = [(pieces.index(piece), at) for piece, at in pairs if piece in pieces]
        if not known:
            return ids
        best, at = min(known)
        ids[at : at + 2] = [best]


def test_the_tokenizer_beside_it(tmp_path):
    pieces = PIECES + MERGED + SYMBOLS
    pieces += [f"piece {i}" for i in range(VOCAB - len(pieces))]
    write(tmp_path / "m.bin", weights())
    write_tokenizer(tmp_path / f"tok{VOCAB}.bin", pieces)
    tokenizer = load_pretrained(str(tmp_path / "m.bin")).tokenizer
    for text in ("the hat", "then a tea", " at  the\nend", "é and ☃", "<s> the </s>"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == merged(text, pieces)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    write_tokenizer(tmp_path / f"tok{VOCAB}.bin", pieces[:-1])
    with pytest.raises(InputError, match="has 299 pieces, the model 300 tokens"):
        load_pretrained(str(tmp_path / "m.bin"))


def test_files_that_are_cut_or_altered(tmp_path):
    arrays = weights()
    path = write(tmp_path / "m.bin", arrays)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(InputError, match=r"its header makes .*: it is cut short"):
        load_pretrained(str(path))
    arrays["wv"][1, 0, 0] = np.nan
    write(path, arrays)
    with pytest.raises(InputError, match=r"wv.1 holds NaN"):
        load_pretrained(str(path))
    write(path, weights(), version=2)
    with pytest.raises(InputError, match="version 2: only 0 and 1"):
        load_pretrained(str(path))
