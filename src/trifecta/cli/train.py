"""``trifecta train``."""

from typing import Any

import click

from trifecta.cli.groups import GroupedCommand, in_group
from trifecta.cli.lazy import act
from trifecta.cli.parameters import IMPORT, image_size


@click.command("train", cls=GroupedCommand)
@in_group(
    "Data",
    click.option("--data", metavar="SOURCE", help="Folder, Hub id, or `digits`."),
    click.option("--image-size", metavar="SIZE", callback=image_size, help="Resize to N×N, or to HxW."),
    click.option("--validation", type=float, help="Share of the training split.  [default: 0.1]"),
    click.option("--augment", metavar="NAME", help="See `trifecta list`.  [default: none]"),
)
@in_group(
    "Method",
    click.option("--recipe", metavar="NAME", help="Start from a recipe (NAME:BUDGET) or a config.yaml."),
    click.option("--method", metavar="NAME", help="See `trifecta list`.  [default: superfecta]"),
    click.option("--network", metavar="NAME", help="See `trifecta list`.  [default: small]"),
    click.option("--width", type=float, help="Multiplies the network's channels.  [default: 1]"),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="SETTING=VALUE",
        help="Any other setting, such as method.schedule=overlapping:3: see `trifecta list --settings`.",
    ),
    IMPORT,
)
@in_group(
    "Training",
    click.option("--epochs", type=int, help="Passes over the training images.  [default: 10]"),
    click.option("--batch-size", type=int, help="Images a step.  [default: 128]"),
    click.option("--learning-rate", type=float, help="At the start.  [default: the method's own]"),
    click.option("--seed", type=int, help="Of everything random.  [default: 0]"),
    click.option("--on-nan", metavar="WHAT", help="stop, or skip such updates.  [default: stop]"),
)
@in_group(
    "Machine",
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, …  [default: auto]"),
    click.option("--precision", metavar="NAME", help="fp32, bf16 or auto.  [default: auto]"),
)
@in_group(
    "Processes",
    click.option("--processes", type=int, metavar="N", help="Start so many here, as torchrun would."),
    click.option("--parallel", metavar="HOW", help="data, layers, or DxL: D replicas of L stages."),
    click.option("--sync-batch-norm", is_flag=True, help="Batch statistics of all replicas' images."),
    click.option("--timeout", type=float, metavar="S", help="Seconds to wait for one.  [default: 60]"),
)
@in_group(
    "Output",
    click.option("--out", metavar="RUN", help="Folder for the run.  [default: runs/NAME-NUMBER]"),
    click.option("--resume", metavar="RUN", help="Continue this run from its checkpoint."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)
def train_command(**options: Any) -> None:
    """Train a network on images; leave a run folder."""
    act("train", "train", options)
