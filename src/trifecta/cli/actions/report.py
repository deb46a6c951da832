"""``trifecta report``."""

from pathlib import Path

import click

from trifecta._utils.files import write_atomically
from trifecta.report.page import compare_runs, missing_libraries, render
from trifecta.training import Run, RunFolder
from trifecta.training.run import resumed_trainer


def report(runs: tuple[Path, ...], out: Path | None, imports: tuple[str, ...]) -> None:
    """Write the page of a run anew, or put several runs beside each other."""
    if missing_libraries():
        raise ValueError("a page needs the extra: pip install 'trifecta[report]'")
    if len(runs) > 1:
        page = out or Path("compared.html")
        compare_runs(runs, page)
    else:
        page = out or RunFolder(runs[0]).report
        text = render(_finished(runs[0], imports))
        write_atomically(page, lambda path: path.write_text(text, encoding="utf-8"))
    click.echo(page)


def _finished(path: Path, imports: tuple[str, ...]) -> Run:
    folder = RunFolder(path)
    config, _ = folder.read_config(imports=imports)
    if config.data is None:
        raise ValueError(f"a page shows the run's images: received {path}, trained on data given in Python")
    result = folder.read_result()
    trainer = resumed_trainer(path, imports=imports, writes=False)
    # It is fitted when a run ends, behind the checkpoint.
    trainer.network.temperature.fill_(result.get("temperature", 1.0))
    return Run(
        result=result,
        test=trainer.evaluate(trainer.data.test),
        trainer=trainer,
    )
