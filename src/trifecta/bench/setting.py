"""What the rows of a benchmark share: network, batch and machine, and the work that a step must do."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trifecta._utils.devices import (
    describe_device,
    in_channels_last,
    resolve_device,
    resolved_precision,
    synchronize,
)
from trifecta._utils.references import name_of
from trifecta.methods import Method
from trifecta.network import LocalNetwork, build_network
from trifecta.nn.blocks import BlockStyle, conv_block
from trifecta.nn.networks import NetworkBuilder, get_network
from trifecta.nn.shapes import ImageShape, SampleShape
from trifecta.training import RunConfig
from trifecta.training.run import versions

_PLAIN = BlockStyle()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings that are equal for all rows of a benchmark.

    Attributes:
        network: name as in ``trifecta list``, or ``equal:DEPTH:CHANNELS``: DEPTH convolutional blocks of
            CHANNELS channels, without pooling.
        width: multiplier of the network's channels.
        image_shape: (C, H, W).
        num_classes: K.
        batch_size: images a step.
        device: as in :class:`trifecta.RunConfig`.
        precision: of all rows except the plain published rule, which is fp32.
    """

    network: str = "small"
    width: float = 1.0
    image_shape: ImageShape = (3, 32, 32)
    num_classes: int = 10
    batch_size: int = 128
    device: str = "auto"
    precision: str = "auto"

    @classmethod
    def of(cls, config: RunConfig, image_shape: ImageShape, num_classes: int) -> "Setting":
        """Return the setting of a run on images of some shape."""
        return cls(
            network=name_of(config.network),
            width=config.width,
            image_shape=image_shape,
            num_classes=num_classes,
            batch_size=config.batch_size,
            device=config.device,
            precision=config.precision,
        )

    @property
    def torch_device(self) -> torch.device:
        """Device of all rows."""
        return resolve_device(self.device)

    @property
    def resolved_precision(self) -> str:
        """``fp32`` or ``bf16``."""
        return resolved_precision(self.precision, self.torch_device)

    @property
    def builder(self) -> NetworkBuilder:
        """Builder of the network.

        Raises:
            ValueError: there is no such network.
        """
        if not self.network.startswith("equal:"):
            return get_network(self.network)
        words = self.network.split(":")[1:]
        if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
            raise ValueError(
                f"equal blocks are equal:DEPTH:CHANNELS, such as equal:12:64: received '{self.network}'"
            )
        depth, channels = int(words[0]), int(words[1])

        def equal_blocks(
            input_shape: SampleShape, *, width: float = 1.0, style: BlockStyle = _PLAIN
        ) -> nn.Sequential:
            shapes = [input_shape, *[(channels, *input_shape[1:])] * (depth - 1)]
            blocks = [conv_block(shape, channels, style, first=k == 0) for k, shape in enumerate(shapes)]
            return nn.Sequential(*blocks)

        return equal_blocks

    def build(self, method: Method) -> LocalNetwork:
        """Return the network for a method, with weights from seed 0, on the device."""
        network = build_network(
            method,
            self.builder,
            sample_shape=self.image_shape,
            num_classes=self.num_classes,
            width=self.width,
        )
        return in_channels_last(network.to(self.torch_device))

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W), standard normal, and labels (B,), the same for all rows."""
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, *self.image_shape, generator=draw)
        labels = torch.randint(self.num_classes, (self.batch_size,), generator=draw)
        device = self.torch_device
        return images.to(device).contiguous(memory_format=torch.channels_last), labels.to(device)

    def facts(self) -> dict[str, Any]:
        """Return settings and conditions, which every report names."""
        return asdict(self) | {"precision": self.resolved_precision} | conditions(self.torch_device)


def conditions(device: torch.device) -> dict[str, Any]:
    """Return what any figure depends on beside its settings."""
    return {
        "device": str(device),
        "hardware": describe_device(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def data_name(source: str) -> str:
    """Return the name of a folder, or a Hub id as it is: reports do not say where folders are."""
    return Path(source).name if Path(source).exists() else source


@torch.inference_mode()
def peak_multiply_adds(device: torch.device, precision: str) -> dict[str, float]:
    """Measure the peak multiply-adds a second of a 3×3 convolution and of a matrix product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    channels, images, pixels = (128, 32, 16) if device.type == "cpu" else (512, 256, 16)
    size = 1024 if device.type == "cpu" else 8192
    x = torch.randn(images, channels, pixels, pixels, device=device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    matrix = torch.randn(size, size, device=device, dtype=dtype)

    def fastest(work: Callable[[], Tensor]) -> float:
        return min(timed(lambda: [work() for _ in range(4)], device) for _ in range(9)) / 4

    products = 9 * channels**2 * images * pixels**2
    return {
        "convolution": products / fastest(lambda: F.conv2d(x, weight, padding=1)),
        "matrix": size**3 / fastest(lambda: matrix @ matrix),
    }


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that ``work`` takes, on the device too."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


@torch.no_grad()
def forward_multiply_adds(network: LocalNetwork) -> list[int]:
    """Count the multiply-adds of each of L blocks for one sample: convolutions and matrix products."""
    shape = network.method.input_shape(network.sample_shape, network.num_classes)
    x = torch.zeros(1, *shape, device=next(network.parameters()).device)
    was_training = network.training
    network.eval()
    counts = []
    for block in network.blocks:
        with FlopCounterMode(display=False) as counter:
            x = block(x)
        counts.append(counter.get_total_flops() // 2)
    network.train(was_training)
    return counts


def training_multiply_adds(network: LocalNetwork) -> float:
    """Count the multiply-adds that a step must do for one image, averaged over the schedule's cycle.

    A pass costs 1 forward and 1 for the weight gradient of every block that learns, and 1 for the input
    gradient of every such block except its window's first; a pair is two passes. The label's own picture
    and heads are left out.
    """
    forward, schedule = forward_multiply_adds(network), network.method.schedule
    total = sum(
        forward[k] * (2 if k == window.first else 3)
        for step in range(schedule.cycle)
        for window in schedule.windows(step, len(forward))
        for k in range(window.first, window.last + 1)
    )
    return total / schedule.cycle * (2 if network.method.objective.pairs else 1)


def prediction_multiply_adds(network: LocalNetwork) -> int:
    """Count the multiply-adds of predicting one image: with every label, or with those on a shortlist."""
    forward = forward_multiply_adds(network)
    if not network.method.tries_labels:
        return sum(forward)
    if network.shortlist is None:
        return sum(forward) * network.num_classes
    early = network.shortlist.after + 1
    return sum(forward[:early]) * network.num_classes + sum(forward[early:]) * network.shortlist.labels
