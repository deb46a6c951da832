"""The ``trifecta`` command: its subcommands, and what an error looks like."""

import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from trifecta import __version__
from trifecta._utils.files import StorageError
from trifecta._utils.references import printable
from trifecta.cli.fields import told
from trifecta.cli.groups import unknown_option
from trifecta.cli.launched import USAGE, ToldByProcess, tell_launcher
from trifecta.cli.lazy import LazyGroup, Place
from trifecta.cli.signals import Terminated

OK, FAILED, UNWRITTEN, INTERRUPTED, TERMINATED = 0, 1, 3, 130, 143
COMMANDS = {
    "train": Place("trifecta.cli.train", "train_command", "Train a network on images; leave a run folder."),
    "evaluate": Place("trifecta.cli.evaluate", "evaluate_command", "Measure a trained run by block."),
    "predict": Place("trifecta.cli.predict", "predict_command", "Label image files."),
    "shrink": Place("trifecta.cli.shrink", "shrink_command", "Make a smaller network of a trained one."),
    "export": Place("trifecta.cli.export", "export_command", "Write a trained network for other runtimes."),
    "report": Place("trifecta.cli.report", "report_command", "Write the page of a run, or compare runs."),
    "list": Place("trifecta.cli.listing", "list_command", "Show methods, networks and recipes."),
    "plan": Place("trifecta.cli.plan", "plan_command", "Show which process would hold which blocks."),
    "bench": Place("trifecta.cli.bench", "bench_command", "Measure speed and memory beside backprop."),
    "reproduce": Place("trifecta.cli.reproduce", "reproduce_command", "Make the paper's tables."),
    "compare": Place("trifecta.cli.compare", "compare_command", "Train methods on equal work."),
}


@click.group(
    cls=LazyGroup,
    places=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
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
      trifecta report RUN [RUN ...]                its page; several beside each other
      trifecta list                                methods, networks, recipes
      trifecta bench speed                         images a second, beside backprop
      trifecta reproduce cifar10                   the paper's experiments, beside its figures
      trifecta compare --data digits --methods trifecta,predsim,backprop     on equal work
    """  # noqa: D301  (click reads \b as a character: keep these lines as they are)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Status 0: done. 1: training diverged. 2: something the user can put right, said in one line. 3: a file
    could not be written, such as on a full disk. 130: interrupted by Ctrl-C. 143: terminated. A training
    that had begun leaves a checkpoint.
    """
    warnings.showwarning = lambda message, *_: _warn(str(message))
    is_running = True

    def terminate(number: int, frame: FrameType | None) -> None:
        if is_running:
            raise Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        status = _run(arguments)
        is_running = False
    except Terminated:  # While another error was being told.
        is_running = False
        status = TERMINATED
    finally:
        signal.signal(signal.SIGTERM, previous)
    sys.exit(status)


def _warn(message: str) -> None:
    click.echo(f"warning: {printable(told(message))}", err=True)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        command.main(arguments, prog_name="trifecta", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.ClickException as error:
        return _complain(*_told(error))
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", INTERRUPTED)
    except Terminated:
        return _complain("terminated", TERMINATED)
    except StorageError as error:
        return _complain(str(error), UNWRITTEN)
    except OSError as error:
        return _complain(f"{error.strerror or error}: {error.filename or 'the file system says no'}", USAGE)
    except (ValueError, ImportError) as error:
        return _complain(str(error), USAGE)
    except Exception as error:
        return _complain(str(error), _status_of(error))
    return OK


def _told(error: click.ClickException) -> tuple[str, int]:
    """Return the message of what click, or a process that was started, refused, and the status."""
    if isinstance(error, ToldByProcess):
        return error.message, error.status
    return unknown_option(error) if isinstance(error, click.NoSuchOption) else error.format_message(), USAGE


def _status_of(error: Exception) -> int:
    """Tell a run that was stopped or diverged from a fault of ours, which is raised again."""
    from trifecta.parallel.faults import ProcessError
    from trifecta.training import DivergenceError, Interrupted

    if isinstance(error, DivergenceError | ProcessError):
        return FAILED
    if isinstance(error, Interrupted):
        return TERMINATED if isinstance(error.__cause__, Terminated) else INTERRUPTED
    raise error


def _complain(message: str, status: int) -> int:
    line = printable(" ".join(message.split()))
    if not tell_launcher(line):
        click.echo(f"trifecta: {line}", err=True)
    return status
