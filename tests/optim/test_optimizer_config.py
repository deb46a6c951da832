"""How fast a block learns, and to what end."""

import pytest

from trifecta import OptimizerConfig


def test_a_rate_falls_along_a_cosine_to_its_end_and_stays_there() -> None:
    config = OptimizerConfig(learning_rate=0.4, decay="cosine")
    shares = (0.0, 0.25, 0.5, 1.0, 1.7)
    assert [config.rate(share) for share in shares] == pytest.approx([0.4, 0.3414214, 0.2, 0, 0], abs=1e-7)
    assert config.rate(0.25, end=0.5) == pytest.approx(0.2)


def test_a_constant_rate_stays() -> None:
    config = OptimizerConfig(learning_rate=0.4, decay="constant")
    assert [config.rate(share) for share in (0.0, 0.5, 1.0)] == [0.4, 0.4, 0.4]


def test_blocks_freeze_one_after_the_other_and_the_last_one_never() -> None:
    config = OptimizerConfig(freeze_from=0.6)
    assert [config.end(block, 3) for block in range(3)] == pytest.approx([0.6, 0.8, 1.0])
    assert config.end(0, 1) == 1.0
    assert [config.frozen_blocks(share, 3) for share in (0.0, 0.59, 0.6, 0.8, 0.99)] == [0, 0, 1, 2, 2]


def test_no_block_freezes_unless_it_is_asked_to() -> None:
    assert [OptimizerConfig().end(block, 3) for block in range(3)] == [1.0, 1.0, 1.0]
    assert OptimizerConfig().frozen_blocks(1.0, 3) == 0
