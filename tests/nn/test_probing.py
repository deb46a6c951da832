"""Layouts of blocks' outputs, told by their layers, by the sizes that they accept, or not at all."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from trifecta.nn.probing import drawing_blocks, trace_blocks


class Plain(nn.Module):
    """Computes a function, and has no layer that tells a layout."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Attends(nn.Module):
    """Attention over the dimension that its layer takes for a sequence."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 1, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.attention(x, x, x)[0]
        return output


def layouts(x: Tensor, *blocks: nn.Module, declared: str | Sequence[str] | None = None) -> tuple[str, ...]:
    return trace_blocks([(block.eval(), nn.Identity()) for block in blocks], x, declared)[0]


CONVOLUTION, LINEAR = nn.Conv1d(3, 4, 1), nn.Linear(6, 4)
X = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))


def test_layers_tell() -> None:
    assert layouts(X, CONVOLUTION, nn.Sequential(nn.ReLU(), nn.Conv1d(4, 6, 1))) == ("first", "first")
    assert layouts(X, LINEAR, nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5))) == ("last", "last")
    # As many channels as positions: convolutions alone do not move them, other layers may.
    assert layouts(X, nn.Conv1d(3, 6, 1)) == ("first",)
    assert layouts(X, nn.Linear(6, 6), nn.Flatten()) == ("last", "first")
    assert trace_blocks([(LINEAR, nn.Identity())], X) == (("last",), ((4, 3),), False, frozenset())


@pytest.mark.parametrize(
    ("before", "told", "function", "expected"),
    [
        (CONVOLUTION, "first", torch.tanh, "first"),
        (CONVOLUTION, "first", lambda x: x.movedim(1, -1), "last"),
        (CONVOLUTION, "first", lambda x: x[:, :, :-1], "first"),
        (LINEAR, "last", torch.tanh, "last"),
        (LINEAR, "last", lambda x: x.movedim(1, -1), "first"),
        (LINEAR, "last", lambda x: x[:, 1:], "last"),
    ],
)
def test_more_positions_at_the_input_tell(
    before: nn.Module, told: str, function: Callable[[Tensor], Tensor], expected: str
) -> None:
    assert layouts(X, before, Plain(function)) == (told, expected)


def test_the_next_block_tells_by_what_it_takes() -> None:
    assert layouts(X, Plain(torch.tanh), CONVOLUTION) == ("first", "first")
    assert layouts(X, Plain(torch.tanh), LINEAR) == ("last", "last")
    # A single position may become two.
    single = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(0))
    assert layouts(single, LINEAR, Plain(torch.tanh)) == ("last", "last")
    # A block of one size alone says nothing of its input; the one behind it does.
    fixed = Plain(lambda x: x.view(2, 4, 6) * 2)
    assert layouts(X, CONVOLUTION, fixed, nn.Conv1d(4, 4, 1)) == ("first", "first", "first")


def test_what_nothing_tells_is_refused_by_its_block_unless_it_is_declared() -> None:
    unknown = Plain(torch.tanh)
    with pytest.raises(
        ValueError, match=r'block 0 returns \(2, 3, 6\), and its .* give channels="first" for \(N, C'
    ):
        layouts(X, unknown)
    # What follows takes more of either, or of neither; more at the input makes no more at the output.
    for others in ([unknown], [Plain(lambda x: x.view(2, 3, 6))]):
        with pytest.raises(ValueError, match="block 0 returns"):
            layouts(X, unknown, *others)
    with pytest.raises(ValueError, match="block 1 returns"):
        layouts(X, CONVOLUTION, Plain(lambda x: torch.ones(2, 4, 6)))
    assert layouts(X, unknown, declared="last") == ("last",)
    assert layouts(X, unknown, CONVOLUTION, declared=["last", "first"]) == ("last", "first")
    for declared in (["last", "last"], "middle"):
        with pytest.raises(ValueError, match=r"channels are first or last, .* each of the 1: received"):
            layouts(X, unknown, declared=declared)


def test_a_layer_that_takes_the_batch_for_a_sequence_is_refused() -> None:
    rows = X[:, :, :4]
    assert layouts(rows, Attends(batch_first=True)) == ("last",)
    with pytest.raises(
        ValueError, match=r"the batch in front.* block 0 returns \(2, 3, 4\) .* or mixes them"
    ):
        layouts(rows, Attends(batch_first=False))
    # The embeddings of tokens cannot be tried with other numbers.
    tokens = nn.Sequential(nn.Embedding(9, 4), Attends(batch_first=False))
    assert layouts(torch.zeros(2, 3, dtype=torch.int64), tokens) == ("last",)
    with pytest.raises(ValueError, match="or mixes them"):
        layouts(rows, nn.Sequential(Attends(batch_first=False), Plain(lambda x: x.view(2, -1, len(x), 2))))
    with pytest.raises(ValueError, match=r"block 0 returns \(3, 2, 6\) for 2 samples"):
        layouts(X, Plain(lambda x: x.movedim(0, 1)))


class Suspect(Plain):
    """Has a layer that takes the batch for a sequence, and does not use it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(function)
        self.attention = nn.MultiheadAttention(4, 1)


def test_samples_count_as_mixed_beyond_the_error_of_rounding() -> None:
    x = 100 * X.double()
    seen: list[Tensor] = []

    def note(samples: Tensor) -> Tensor:
        seen.append(samples.clone())
        return samples

    assert layouts(x, Suspect(note), declared="first") == ("first",)
    # The layout's own batch comes first. Then samples from −1 to 1 in the type of the batch.
    assert seen[1].dtype == torch.float64
    assert torch.equal(seen[1], torch.linspace(-1, 1, 36).view(2, 3, 6).double())
    for harmless in (lambda x: x * (1 + 3e-4 * len(x)), lambda x: 0 * x + 3e-5 * len(x)):
        assert layouts(x, Suspect(harmless), declared="first") == ("first",)
    for mixing in (lambda x: x * (1 + 3e-2 * len(x)), lambda x: 0 * x + 3e-3 * len(x)):
        with pytest.raises(ValueError, match="or mixes them"):
            layouts(x, Suspect(mixing), declared="first")


def test_a_block_that_refuses_its_input_is_named_with_the_reason() -> None:
    with pytest.raises(
        ValueError, match=r"block 1 does not take a batch \(N, 4, 6\): mat1 and mat2 shapes"
    ):
        layouts(X, CONVOLUTION, nn.Linear(5, 2))


def test_a_block_that_writes_into_its_input_is_found() -> None:
    blocks = (CONVOLUTION, Plain(Tensor.relu_))
    assert trace_blocks([(block, nn.Identity()) for block in blocks], X)[-1] == {1}


def test_blocks_that_draw_are_known_or_found_by_passing_samples() -> None:
    cpu, x = torch.device("cpu"), torch.linspace(-1, 1, 6).view(2, 3)
    quiet, noisy = Plain(torch.tanh), Plain(lambda x: x + torch.rand_like(x))
    assert drawing_blocks(nn.ModuleList([nn.Linear(3, 3), nn.Dropout(), nn.Tanh()]), x, cpu) == {1}
    assert drawing_blocks(nn.ModuleList([quiet, nn.Linear(3, 3), noisy, Plain(torch.sin)]), x, cpu) == {2}
    # Blocks behind one that fails may draw, too.
    failing = Plain(lambda x: x.view(7))
    assert drawing_blocks(nn.ModuleList([quiet, failing, Plain(torch.sin)]), x, cpu) == {1, 2}
    # The last block that is not known ends the trial.
    assert drawing_blocks(nn.ModuleList([quiet, nn.Linear(5, 5)]), x, cpu) == set()
