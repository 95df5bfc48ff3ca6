"""Translation between two generated grammars, by an encoder and a decoder that are two ONNX files.

The source language has its verb at the end and adjectives behind nouns, the target language has the
verb in the middle and adjectives before nouns. A training sample has two inputs, a source sentence
and its translation shifted by one word: the decoder learns to predict each next word.

    python examples/translation.py [FOLDER]
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn

import hwnas
from hwnas.nn import Choice, Width

NOUNS = {"hundo": "dog", "kato": "cat", "birdo": "bird", "libro": "book", "domo": "house"}
ADJECTIVES = {"granda": "big", "bela": "beautiful", "nova": "new", "ruga": "red"}
VERBS = {"vidas": "sees", "amas": "loves", "trovas": "finds", "havas": "has"}
MEANING = NOUNS | ADJECTIVES | VERBS
VOCABULARY = ("<begin>", "<end>", *MEANING, *MEANING.values())
LENGTH, CHANNELS = 6, 32


def sentence(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """A source sentence and its translation."""
    verb, nouns = rng.choice([*VERBS]), rng.choice([*NOUNS], 2)
    subject, thing = ([noun, *rng.choice([*ADJECTIVES], rng.integers(2))] for noun in nouns)
    target = (*reversed(subject), verb, *reversed(thing))
    return [*subject, *thing, verb], [MEANING[word] for word in target]


def sentences(count: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Source, target behind a mark but its last word, and whole target, (count, LENGTH) each."""
    rng = np.random.default_rng(seed)
    pairs = [sentence(rng) for _ in range(count)]
    filled = [[words + ["<end>"] * (LENGTH - len(words)) for words in pair] for pair in pairs]
    source, target = np.vectorize(VOCABULARY.index)(filled).swapaxes(0, 1)
    begin = np.full((count, 1), VOCABULARY.index("<begin>"))
    return {"source": source, "words": np.hstack([begin, target[:, :-1]])}, target


def sentences_right(outputs: Tensor, target: Tensor) -> float:
    """The share of sentences of which each word is right, so that greedy decoding is right too."""
    return float((outputs.argmax(dim=1) == target).all(dim=1).double().mean())


class Recurrent(nn.Module):
    """Words (N, L) to vectors (N, L, C) that know the words before them."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(VOCABULARY), CHANNELS)
        self.layer = kind(CHANNELS, CHANNELS, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        return self.layer(self.embedding(words))[0]


class Decoder(nn.Module):
    """Vectors of the source and the words so far (N, L) to logits of each next word (N, K, L)."""

    def __init__(self) -> None:
        super().__init__()
        hidden = Width([16, 32, 64], name="hidden")
        self.words = Choice({"gru": Recurrent(nn.GRU), "lstm": Recurrent(nn.LSTM)})
        read, answer = nn.Linear(2 * CHANNELS, hidden), nn.Linear(hidden, len(VOCABULARY))
        self.head = nn.Sequential(read, nn.ReLU(), answer)

    def forward(self, source: Tensor, words: Tensor) -> Tensor:
        state = self.words(words)
        attended = torch.softmax(state @ source.transpose(1, 2), dim=2) @ source
        return self.head(torch.cat([state, attended], dim=2)).transpose(1, 2)


class Network(nn.Module):
    """Source and shifted target (N, LENGTH) to logits (N, K, LENGTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Choice({"gru": Recurrent(nn.GRU), "lstm": Recurrent(nn.LSTM)})
        self.decoder = Decoder()

    def forward(self, source: Tensor, words: Tensor) -> Tensor:
        return self.decoder(self.encoder(source), words)


def translated(folder: Path, source: np.ndarray) -> np.ndarray:
    """Greedy decoding with ONNX Runtime alone, (N, LENGTH) to (N, LENGTH)."""
    encoder, decoder = (InferenceSession(folder / n / "model.onnx") for n in ("encoder", "decoder"))
    (encoded,) = encoder.run(None, {"words": source})
    words = np.full((len(source), LENGTH + 1), VOCABULARY.index("<begin>"))
    for place in range(LENGTH):
        (logits,) = decoder.run(None, {"source": encoded, "words": words[:, :LENGTH]})
        words[:, place + 1] = logits[:, :, place].argmax(axis=1)
    return words[:, 1:]


def main(folder: str = "runs/translation", samples: int = 3000, **arguments: Any) -> hwnas.Result:
    """Search, train, export and check the whole network, then export and check its halves."""
    torch.manual_seed(0)
    parts = sentences(samples, seed=0), sentences(samples // 3, seed=1)
    data = hwnas.dataset_of(*parts, kind=("tokens", "tokens"), classes=VOCABULARY)
    settings = {"controls": 1, "train.optimizer": "adamw", "train.learning_rate": 0.005}
    usual = {"steps": 150, "epochs": 15, "metric": sentences_right, "settings": settings}
    result = hwnas.search(Network(), folder, train=data, **usual | arguments)
    encoder, source = result.model.encoder, torch.from_numpy(parts[1][0]["source"][:4])
    hwnas.check(encoder, source, out=f"{folder}/encoder")
    hwnas.check(result.model.decoder, (encoder(source).detach(), source), out=f"{folder}/decoder")
    return result


if __name__ == "__main__":
    print(main(*sys.argv[1:2]))
