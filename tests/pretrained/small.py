"""Small random models with a tokenizer, for the tests of evaluation and generation."""

import torch

from rankbound.corpora.tokenizer import train_tokenizer
from rankbound.heads import Linear, MixtureOfSoftmaxes
from rankbound.model import GPT
from rankbound.pretrained.texts import TextModel
from rankbound.training.language_model import LanguageModel

TEXT = "the cat sat on the mat and the dogs bark at them while rain falls. Café naïve 猫が 🙂 and so on."


def tokenizer(vocab_size=320):
    return train_tokenizer([TEXT] * 3, vocab_size)


def text_model(mixture=False, context=64, end_of_text=0, seed=0, scale=2.5, vocab_size=320):
    """A random model whose distributions are far from flat."""
    torch.manual_seed(seed)
    own = tokenizer(vocab_size)
    size = own.get_vocab_size()
    body = GPT(size, hidden_size=32, num_attention_heads=2, max_position_embeddings=context)
    head = (lambda d, v: MixtureOfSoftmaxes(d, v, components=3)) if mixture else Linear
    model = LanguageModel(body, head).eval()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(scale)
    return TextModel(model, own, context, end_of_text)
