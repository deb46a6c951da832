"""Making the runs that are missing, one after another; several processes may share a table."""

import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trifecta.data import DataConfig, ImageData, load_data
from trifecta.experiments.plan import PlannedRun
from trifecta.experiments.results import find, read_results, write_result
from trifecta.training import DivergenceError, RunFolder, Trainer
from trifecta.training.preparation import with_superclasses
from trifecta.training.run import finish, resumed_trainer

Watch = Callable[[PlannedRun, Trainer], AbstractContextManager[object]]
Measure = Callable[[PlannedRun, Trainer], dict[str, Any]]


@dataclass(kw_only=True)
class Outcome:
    """Outcome of the runs that were missing.

    Attributes:
        made: finished here.
        elsewhere: another process has them in hand.
        failed: what went wrong, by the run's name.
    """

    made: list[PlannedRun] = field(default_factory=list)
    elsewhere: list[PlannedRun] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Reproduction:
    """The runs of a table, their result files, and the folder where unfinished ones live.

    Args:
        runs: what the table needs.
        out: folder of the result files.
        work: folder of run folders; a run that was interrupted goes on from there.
        timed: whether result files are to hold times.
        measure: what else to put into a finished run's result, such as its memory.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        *,
        out: Path,
        work: Path,
        timed: bool = True,
        measure: Measure | None = None,
    ) -> None:
        self.runs, self.out, self.work, self.timed, self.measure = runs, out, work, timed, measure
        self._data: tuple[DataConfig, ImageData] | None = None
        self._no_data: dict[DataConfig, str] = {}

    def missing(self) -> list[PlannedRun]:
        """Runs without a result file, or with one of other settings."""
        stored = read_results(self.out)
        return [run for run in self.runs if find(stored, run) is None]

    def make(self, runs: Iterable[PlannedRun], watch: Watch) -> Outcome:
        """Make ``runs``, leaving a result file each; what one cannot have does not stop the others.

        Args:
            runs: in this order.
            watch: a context around each run's training.

        Raises:
            Interrupted: the training was asked to stop; the next call takes it up again.
        """
        outcome = Outcome()
        for run in runs:
            with self._claim(run) as mine:
                if not mine:
                    outcome.elsewhere.append(run)
                elif find(read_results(self.out), run) is None:
                    self._make(run, watch, outcome)
        return outcome

    def _make(self, run: PlannedRun, watch: Watch, outcome: Outcome) -> None:
        try:
            trainer = self._trainer(run)
            with watch(run, trainer):
                finished = finish(trainer)
        except (ValueError, DivergenceError) as error:
            outcome.failed[run.name] = str(error)
            return
        more = {} if self.measure is None else self.measure(run, trainer)
        write_result(self.out, run, finished.result | more, trainer.history, timed=self.timed)
        outcome.made.append(run)

    def _trainer(self, run: PlannedRun) -> Trainer:
        """Build the run's trainer, at its own checkpoint where there is one."""
        folder = RunFolder(self.work / run.name)
        assert run.config.data is not None
        data = self._load(run.config.data)
        wanted = with_superclasses(run.config, data)
        if folder.checkpoint.is_file():
            try:
                if folder.read_config()[0] == wanted:
                    return resumed_trainer(folder.path, data=data)
            except ValueError as error:
                warnings.warn(f"{error}: the run starts again", stacklevel=2)
            shutil.rmtree(folder.path)
        return Trainer(run.config, folder=folder, data=data)

    def _load(self, config: DataConfig) -> ImageData:
        """The images, kept until other ones are needed; a source that failed is not asked again."""
        if config in self._no_data:
            raise ValueError(self._no_data[config])
        if self._data is None or self._data[0] != config:
            try:
                self._data = (config, load_data(config))
            except (ValueError, ImportError) as error:
                self._no_data[config] = str(error)
                raise ValueError(str(error)) from error
        return self._data[1]

    @contextmanager
    def _claim(self, run: PlannedRun) -> Iterator[bool]:
        """Whether the run is ours; the claim ends with this process, however it ends."""
        self.work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.work / f"{run.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
