"""The learning rate of each block: the method's own, or a scheduler's where the method leaves it alone."""

import pytest
import torch

from trifecta import Learner, Method, OptimizerConfig, Symmetric, build_network, get_method


def learner_of(config: OptimizerConfig, total_steps: int | None) -> Learner:
    method = Method(name="own", label_input="channel", objective=Symmetric(), optimizer=config)
    network = build_network(method, "small", sample_shape=(1, 8, 8), num_classes=3, width=0.05)
    return Learner(network, total_steps=total_steps)


@pytest.mark.parametrize(
    ("config", "total_steps"),
    [(OptimizerConfig(decay="constant", learning_rate=0.1), 9), (OptimizerConfig(learning_rate=0.1), None)],
)
def test_a_scheduler_is_obeyed_where_the_rate_stays(
    config: OptimizerConfig, total_steps: int | None
) -> None:
    learner = learner_of(config, total_steps)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in learner.optimizers.values()]
    for _ in range(2):
        learner.step(torch.randn(6, 1, 8, 8), torch.arange(6) % 3)
        for scheduler in schedulers:
            scheduler.step()
    assert [o.param_groups[0]["lr"] for o in learner.optimizers.values()] == [0.025] * 6


def test_a_scheduler_is_refused_where_the_method_decays_the_rate() -> None:
    learner = learner_of(OptimizerConfig(), 9)
    torch.optim.lr_scheduler.ExponentialLR(learner.optimizers[0], 0.5)
    message = (
        "^a scheduler was attached to an optimizer whose learning rate the method decays .cosine., which "
        "would overwrite the scheduler's: use OptimizerConfig.decay='constant'.$"
    )
    with pytest.raises(ValueError, match=message):
        learner.step(torch.randn(6, 1, 8, 8), torch.arange(6) % 3)


def test_every_block_warms_up_unless_nobody_says_how_long_the_run_is() -> None:
    config = OptimizerConfig(learning_rate=0.1, decay="constant", warmup=0.5)
    rates = []
    for total_steps in (4, None):
        learner = learner_of(config, total_steps)
        for _ in range(4):
            learner.step(torch.randn(6, 1, 8, 8), torch.arange(6) % 3)
            rates.append({o.param_groups[0]["lr"] for o in learner.optimizers.values()})
    assert rates == [{0.0}, {0.05}, {0.1}, {0.1}, *[{0.1}] * 4]
    learner = learner_of(config, 4)
    torch.optim.lr_scheduler.ExponentialLR(learner.optimizers[0], 0.5)
    with pytest.raises(ValueError, match=r"the method warms up .constant., .* warmup=0\)$"):
        learner.step(torch.randn(6, 1, 8, 8), torch.arange(6) % 3)


def test_a_rate_stays_where_nobody_says_how_long_the_run_is() -> None:
    learner = learner_of(OptimizerConfig(learning_rate=0.1), None)
    learner.steps = 50
    learner.step(torch.randn(6, 1, 8, 8), torch.arange(6) % 3)
    assert [o.param_groups[0]["lr"] for o in learner.optimizers.values()] == [0.1] * 6


def test_dropout_draws_from_the_global_numbers_where_a_learner_has_none_of_its_own() -> None:
    network = build_network(get_method("hcl-ff"), sample_shape=(1, 8, 8), num_classes=3, width=0.1)
    losses = Learner(network).step(torch.randn(6, 1, 8, 8), torch.arange(6) % 3)
    assert all(loss is None or loss.isfinite() for loss in losses)
