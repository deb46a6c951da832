"""A run's network: built as its settings say, with the weights that its folder holds."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trifecta._utils.devices import in_channels_last
from trifecta._utils.draws import SeededDraws
from trifecta._utils.precision import kept_precision, resolved_precision
from trifecta._utils.yaml_files import read_yaml
from trifecta.building import build_network
from trifecta.network import LocalNetwork
from trifecta.training.checkpoint import check_tensors
from trifecta.training.config import GIVEN, RunConfig
from trifecta.training.dataset_facts import DatasetFacts
from trifecta.training.run_folder import Imported, RunFolder

_TEMPERATURE = "temperature"


def load_network(
    folder: RunFolder,
    device: torch.device,
    *,
    imports: Imported = (),
    blocks: Iterable[nn.Module] | None = None,
) -> tuple[LocalNetwork, DatasetFacts]:
    """Load the trained network of a run, in evaluation mode, and the facts about its data.

    Args:
        folder: of the run.
        device: where the network is to be.
        imports: modules of your own whose parts the run's settings may name.
        blocks: of the network, where they were handed to :func:`trifecta.train`.

    Raises:
        ValueError: not a run folder, no model in it, a model of another network, a part from another
            module, or blocks that are missing.
    """
    config, facts = folder.read_config(imports=imports)
    network = network_for(config, facts, blocks=blocks)
    load_model(folder, network)
    return network.to(device).eval(), facts


def load_model(folder: RunFolder, network: LocalNetwork) -> None:
    """Copy what ``model.safetensors`` holds into ``network``.

    Raises:
        ValueError: there is none, it is damaged, or another network's.
    """
    own = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    # Room for the wrong type of number, which has a message of its own.
    tensors, is_whole = folder.read_model(16 * own + 2**20)
    load_weights(network, tensors, source=folder.model)
    if not is_whole:
        raise ValueError(
            f"{folder.model} is not what the run wrote: it is damaged, or was changed; trifecta train "
            f"--resume {folder.path} writes it again from the checkpoint"
        )


def run_precision(folder: RunFolder, device: torch.device, asked: str | None = None) -> str:
    """Return the precision in which to use the run in ``folder``, ``fp32`` or ``bf16``.

    It is the one that was ``asked`` for, or for None and ``auto`` the one that the run was trained in.
    Where the run chose bf16 and ``device`` has none in hardware, it is fp32, with a warning.

    Raises:
        ValueError: not a run folder, or not a precision.
    """
    if asked is not None and asked != "auto":
        return resolved_precision(asked, device)
    # A run that has not begun recorded none.
    trained = folder.read_resolved().get("precision", "fp32")
    return kept_precision(str(read_yaml(folder.config)[0].get("precision")), str(trained), device)


def network_for(
    config: RunConfig, facts: DatasetFacts, *, blocks: Iterable[nn.Module] | None = None
) -> LocalNetwork:
    """Build the untrained network of a run.

    Args:
        config: of the run.
        facts: about its data.
        blocks: to use as they are, in place of those that ``config.network`` names.

    Raises:
        ValueError: the network is neither named nor given, or as :class:`LocalNetwork`.
    """
    num_classes = len(facts.classes)
    if blocks is not None:
        with SeededDraws(config.seed):
            return LocalNetwork(
                blocks,
                config.method,
                sample_shape=facts.sample_shape,
                num_classes=num_classes,
                integer=facts.integer,
            )
    if config.network == GIVEN:
        raise ValueError(
            "this run's blocks were made in Python and have no name: give them as network=, as when it was "
            "trained"
        )
    if facts.integer:
        raise ValueError(
            "networks with names take floats: received integer tokens; give floats, or blocks of your own "
            "as network="
        )
    network = build_network(
        config.method,
        config.network,
        sample_shape=facts.sample_shape,
        num_classes=num_classes,
        width=config.width,
        channels=config.channels,
        seed=config.seed,
    )
    return in_channels_last(network)


def load_weights(network: LocalNetwork, tensors: Mapping[Any, Any], *, source: Path) -> None:
    """Copy ``tensors`` into ``network``.

    Raises:
        ValueError: they are another network's, or no numbers that a network can have; names the first.
    """
    expected = network.state_dict()
    tensors = {_TEMPERATURE: network.temperature.new_ones(()), **tensors}  # older weights have none
    for name in [*expected, *tensors]:
        wanted, received = _kind(expected.get(name)), _kind(tensors.get(name))
        if wanted != received:
            raise ValueError(
                f"{source} holds another network: {name} is {received}, this run's is {wanted}"
            )
    check_tensors(tensors, source)
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{source} is damaged: {name} has values that are not finite")
    if not bool(tensors[_TEMPERATURE] > 0):
        raise ValueError(f"{source} is damaged: a {_TEMPERATURE} is above 0, not {tensors[_TEMPERATURE]}")
    network.load_state_dict(dict(tensors))


def _kind(tensor: Any) -> str:
    """Describe a tensor's shape and dtype."""
    if tensor is None:
        return "missing"
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}"
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
