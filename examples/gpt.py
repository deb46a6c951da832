"""A small GPT of your own on the texts of Python's help, with a next-token loss at every block.

python examples/gpt.py --method superfecta --epochs 3
"""

import argparse
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn

from trifecta import LocalNetwork, Run, RunConfig, from_module, get_method, train

CONTEXT = 64


class Block(nn.Module):
    """Causal attention and a perceptron, each after a layer normalisation, with a shortcut around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(N, T, width) → (N, T, width); ``mask`` (T, T) is True where a token may not look."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class GPT(nn.Module):
    """Tokens (N, T) → scores of the next one (N, T, vocabulary)."""

    def __init__(self, vocabulary: int, *, width: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads=4) for _ in range(depth))
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) → (N, T, vocabulary)."""
        count = tokens.shape[1]
        assert count <= CONTEXT
        x = self.tokens(tokens) + self.positions(torch.arange(count, device=tokens.device))
        mask = torch.ones(count, count, dtype=torch.bool, device=tokens.device).triu(1)
        for block in self.blocks:
            x = block(x, mask)
        scores: Tensor = self.classifier(self.norm(x))
        return scores


def text(characters: int) -> tuple[str, str]:
    """Return the first ``characters`` of the texts, and the characters that occur in them."""
    whole = "\n".join(topics[name] for name in sorted(topics))[:characters]
    return whole, "".join(sorted(set(whole)))


def windows(characters: int) -> tuple[Tensor, Tensor, str]:
    """Return tokens (N, T), the tokens that follow them (N, T), and the vocabulary."""
    whole, vocabulary = text(characters)
    index = {character: k for k, character in enumerate(vocabulary)}
    tokens = torch.tensor([index[character] for character in whole])
    pieces = tokens[: (len(tokens) - 1) // CONTEXT * CONTEXT + 1].unfold(0, CONTEXT + 1, CONTEXT)
    return pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous(), vocabulary


def run(
    *, method: str, epochs: int, characters: int = 600_000, width: int = 96, depth: int = 4, seed: int = 0
) -> Run:
    """Train the blocks of a fresh GPT."""
    tokens, following, vocabulary = windows(characters)
    torch.manual_seed(seed)
    model = GPT(len(vocabulary), width=width, depth=depth)
    # Methods are compared after equal times, so the last weights count.
    config = RunConfig(method=get_method(method), epochs=epochs, batch_size=32, seed=seed, keep="last")
    return train(config, data=(tokens, following), classes=list(vocabulary), network=from_module(model))


@torch.inference_mode()
def write(
    network: LocalNetwork, vocabulary: str, beginning: str, *, count: int = 200, seed: int = 0
) -> str:
    """Continue ``beginning`` by ``count`` characters, one drawn after another."""
    network.eval()
    generator = torch.Generator().manual_seed(seed)
    tokens = [vocabulary.index(character) for character in beginning]
    for _ in range(count):
        recent = torch.tensor([tokens[-CONTEXT:]])
        missing = CONTEXT - recent.shape[1]
        # The network is causal, so the padding changes nothing before it.
        scores = network(torch.nn.functional.pad(recent, (0, missing)))[0, :, recent.shape[1] - 1]
        tokens.append(int(torch.multinomial(scores.softmax(0), 1, generator=generator)))
    return "".join(vocabulary[token] for token in tokens)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="superfecta")
    parser.add_argument("--epochs", type=int, default=3)
    done = run(**vars(parser.parse_args()))
    print(f"next-character accuracy {done.test_accuracy:.2%}")
    print(write(done.network, "".join(done.trainer.facts.classes), "The statement "))
