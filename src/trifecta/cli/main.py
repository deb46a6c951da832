"""The ``trifecta`` command: its subcommands, and what an error looks like."""

import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import click

from trifecta import __version__
from trifecta.cli.bench import bench_command
from trifecta.cli.compare import compare_command
from trifecta.cli.evaluate import evaluate_command
from trifecta.cli.export import export_command
from trifecta.cli.listing import list_command
from trifecta.cli.predict import predict_command
from trifecta.cli.reproduce import reproduce_command
from trifecta.cli.train import train_command
from trifecta.training import DivergenceError, Interrupted

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="trifecta")
def command() -> None:
    """Train neural networks without end-to-end backpropagation.

    \b
    Start here:
      trifecta train --recipe demo                 the Trifecta on handwritten digits
      trifecta train --data FOLDER --out RUN       your own images
      trifecta evaluate RUN                        its test accuracy, block by block
      trifecta predict RUN IMAGE...                labels for image files
      trifecta export RUN --out FILE.onnx          for other runtimes
      trifecta list                                methods, networks, recipes
      trifecta bench speed                         images a second, beside backprop
      trifecta reproduce cifar10                   the paper's experiments, beside its figures
      trifecta compare --data digits --methods trifecta,predsim,backprop     on equal work
    """  # noqa: D301  (click reads \b as a character: keep these lines as they are)


for _subcommand in (
    train_command,
    evaluate_command,
    predict_command,
    export_command,
    list_command,
    bench_command,
    reproduce_command,
    compare_command,
):
    command.add_command(_subcommand)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Status 0: done. 1: training diverged. 2: something the user can put right, said in one line.
    130: interrupted, with a checkpoint left.
    """
    warnings.showwarning = lambda message, *_: click.echo(f"warning: {message}", err=True)
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        command.main(arguments, prog_name="trifecta", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.ClickException as error:
        return _complain(error.format_message(), USAGE)
    except DivergenceError as error:
        return _complain(str(error), FAILED)
    except (ValueError, ImportError) as error:
        return _complain(str(error), USAGE)
    except OSError as error:
        return _complain(f"{error.strerror or error}: {error.filename or 'the file system says no'}", USAGE)
    except Interrupted as error:
        return _complain(str(error), INTERRUPTED)
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", INTERRUPTED)
    return OK


def _complain(message: str, status: int) -> int:
    click.echo(f"trifecta: {' '.join(message.split())}", err=True)
    return status
