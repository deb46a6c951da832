"""Settings that all variants of a benchmark share: network, batch, device, precision."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trifecta._utils.devices import describe_device, in_channels_last, resolve_device, resolved_precision
from trifecta._utils.draws import SeededDraws
from trifecta._utils.references import name_of
from trifecta.methods import Method
from trifecta.network import LocalNetwork
from trifecta.nn.blocks import conv_block
from trifecta.nn.networks import get_network
from trifecta.nn.shapes import ImageShape
from trifecta.training import RunConfig
from trifecta.training.run import versions


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Equal work for all.

    Attributes:
        network: as in ``trifecta list``, or ``equal:DEPTH:CHANNELS``: so many convolutional blocks of so
            many channels, none of which pools.
        width: multiplies the network's channels.
        image_shape: (C, H, W).
        num_classes: K.
        batch_size: images a step.
        device: as for ``trifecta train``.
        precision: of every variant but the published rule's plain implementation, which is fp32.
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
        """The setting of a run on images of some shape."""
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
        """The device of all variants."""
        return resolve_device(self.device)

    @property
    def resolved_precision(self) -> str:
        """``fp32`` or ``bf16``; the same for all variants."""
        return resolved_precision(self.precision, self.torch_device)

    def check_network(self) -> None:
        """Raise ValueError for a network that does not exist, without building it."""
        if self.network.startswith("equal:"):
            _depth_and_channels(self.network)
        else:
            get_network(self.network)

    def build(self, method: Method) -> LocalNetwork:
        """The network for a method, weights from seed 0, on the device."""
        with SeededDraws(0):
            network = LocalNetwork(
                self._blocks(method), method, sample_shape=self.image_shape, num_classes=self.num_classes
            )
        return in_channels_last(network.to(self.torch_device))

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W), standard normal, and labels (B,), the same for all."""
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, *self.image_shape, generator=draw)
        labels = torch.randint(self.num_classes, (self.batch_size,), generator=draw)
        device = self.torch_device
        return images.to(device).contiguous(memory_format=torch.channels_last), labels.to(device)

    def facts(self) -> dict[str, Any]:
        """Return hardware, versions, date and settings, which every result names."""
        device = self.torch_device
        return asdict(self) | {
            "device": str(device),
            "precision": self.resolved_precision,
            "hardware": describe_device(device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "date": datetime.now(UTC).date().isoformat(),
        }

    def _blocks(self, method: Method) -> nn.Sequential:
        shape, style = (
            method.input_shape(self.image_shape, self.num_classes),
            method.block_style(self.num_classes),
        )
        if not self.network.startswith("equal:"):
            return get_network(self.network)(shape, width=self.width, style=style)
        depth, channels = _depth_and_channels(self.network)
        inputs = [shape, *[(channels, *shape[1:])] * (depth - 1)]
        return nn.Sequential(
            *(conv_block(each, channels, style, first=k == 0) for k, each in enumerate(inputs))
        )


def data_name(source: str) -> str:
    """A folder's own name, or a Hub id as it is: reports do not say where folders are."""
    return Path(source).name if Path(source).exists() else source


def _depth_and_channels(network: str) -> tuple[int, int]:
    words = network.split(":")[1:]
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(
            f"equal blocks are equal:DEPTH:CHANNELS, such as equal:12:64: received '{network}'"
        )
    return int(words[0]), int(words[1])
