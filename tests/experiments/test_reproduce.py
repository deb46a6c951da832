"""Tables of runs: made once, resumed, shared between processes, and told apart by their settings."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from trifecta.data import DataConfig
from trifecta.experiments import PlannedRun, Reproduction, find, plan, read_results, summarise
from trifecta.methods import get_method
from trifecta.recipes import Budget, Published, Recipe, ResultTable
from trifecta.training import Interrupted, RunConfig, RunFolder, Trainer, to_plain


def tiny_recipe(name: str, source: Path, *, epochs: int = 1) -> Recipe:
    method = replace(get_method(name), label_input="none" if name == "backprop" else "channel")
    return Recipe(
        name=f"{name}-stripes",
        title=name,
        base=RunConfig(
            data=DataConfig(source=str(source), validation=0.0),
            method=method,
            precision="fp32",
        ),
        budgets={"quick": Budget(width=0.05, epochs=epochs, batch_size=40)},
        source="a test",
        published=Published(accuracy=90.0, source="a test", tolerance=1.0) if name == "ff" else None,
    )


@pytest.fixture
def table(stripes_folder: Path) -> ResultTable:
    recipes = [tiny_recipe(name, stripes_folder) for name in ("ff", "backprop")]
    return ResultTable(name="stripes", title="Stripes", recipes=recipes, budget="quick")


@pytest.fixture(scope="module")
def made(stripes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``ff`` with two seeds and ``backprop`` with one are finished."""
    folder = tmp_path_factory.mktemp("made")
    recipes = [tiny_recipe(name, stripes_folder) for name in ("ff", "backprop")]
    runs = plan(recipes, budget="quick", seeds=2, precision="fp32")
    assert reproduction(runs[:3], folder).make(untouched).made == runs[:3]
    return folder


@pytest.fixture
def finished(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "finished"))


def planned(table: ResultTable, *, seeds: int = 1) -> list[PlannedRun]:
    return plan(table.recipes, budget="quick", seeds=seeds, precision="fp32")


def reproduction(runs: list[PlannedRun], folder: Path) -> Reproduction:
    return Reproduction(runs=runs, out=folder / "results", work=folder / "work", command=command)


def command(run: PlannedRun) -> str:
    return f"make {run.name}"


def untouched(run: PlannedRun, trainer: Trainer) -> nullcontext[None]:
    return nullcontext()


def never(run: PlannedRun, trainer: Trainer) -> nullcontext[None]:
    raise AssertionError(f"{run.name} is not to be run")


def test_all_rows_with_one_seed_come_before_the_next_seed(table: ResultTable) -> None:
    runs = planned(table, seeds=2)
    assert [(run.recipe.title, run.config.seed) for run in runs] == [
        ("ff", 0),
        ("backprop", 0),
        ("ff", 1),
        ("backprop", 1),
    ]


def test_a_pattern_chooses_rows_and_must_fit_one(table: ResultTable) -> None:
    assert [recipe.name for recipe in table.rows("ff-*")] == ["ff-stripes"]
    with pytest.raises(ValueError, match="fits no row of stripes: its rows are ff-stripes, backprop-"):
        table.rows("gg-*")


def test_running_twice_does_no_work_twice(table: ResultTable, finished: Path) -> None:
    again = reproduction(planned(table), finished)
    assert again.missing() == []
    assert again.make(never).made == []
    more = reproduction(planned(table, seeds=2), finished)
    assert [(run.recipe.title, run.config.seed) for run in more.missing()] == [("backprop", 1)]


def test_a_result_file_has_what_its_figure_depends_on(table: ResultTable, finished: Path) -> None:
    run = planned(table)[0]
    (path,) = (finished / "results").glob("ff-*_seed-0_*")
    whole = json.loads(path.read_text())
    assert path.name.startswith("ff-stripes_quick_seed-0_")
    assert path.name.endswith(f"_{whole['result']['date']}.json")
    assert {"hardware", "versions", "seed", "budget", "date", "precision"} <= set(whole["result"])
    assert whole["config"] == json.loads(json.dumps(to_plain(run.named)))
    assert whole["command"] == f"make {whole['name']}"
    assert len(whole["history"]) == whole["result"]["epochs"] == 1
    result = RunFolder(finished / "work" / run.name).read_result()
    assert whole["result"] == result | {"data": run.recipe.data.source}


def test_a_shared_machine_leaves_no_times(table: ResultTable, tmp_path: Path) -> None:
    runs = planned(table)[:1]
    Reproduction(runs=runs, out=tmp_path, work=tmp_path / "work", command=command, timed=False).make(
        untouched
    )
    (stored,) = read_results(tmp_path)
    assert not {"seconds", "images_per_second"} & {*stored.result, *stored.history[0]}
    assert summarise(runs, [stored])[0].mean("seconds") is None


def test_a_recipe_that_changed_is_run_again_in_place_of_the_old_result(
    table: ResultTable, stripes_folder: Path, finished: Path
) -> None:
    changed = replace(table, recipes=[tiny_recipe("ff", stripes_folder, epochs=2), table.recipes[1]])
    new = planned(changed)
    again = reproduction(new, finished)
    assert again.missing() == new[:1]
    again.make(untouched)
    stored = read_results(finished / "results")
    assert len(stored) == 3
    found = find(stored, new[0])
    assert found is not None
    assert found.result["epochs"] == 2
    assert find(stored, planned(table)[0]) is None


def test_how_many_blocks_learnt_at_once_does_not_tell_runs_apart(
    table: ResultTable, finished: Path
) -> None:
    at_once = [replace(run, config=replace(run.config, pipeline=2)) for run in planned(table)[:1]]
    assert reproduction(at_once, finished).missing() == []


def test_a_result_of_before_a_setting_existed_still_counts(table: ResultTable, finished: Path) -> None:
    runs = planned(table)[:1]
    (path,) = (finished / "results").glob("ff-*_seed-0_*")
    whole = json.loads(path.read_text())
    for newer in ("pipeline", "keep", "statistics"):
        del whole["config"][newer]
    path.write_text(json.dumps(whole))
    assert reproduction(runs, finished).missing() == []
    for other in ({"keep": "best"}, {"statistics": "running"}, {"no_longer_there": 1}):
        path.write_text(json.dumps({**whole, "config": whole["config"] | other}))
        assert reproduction(runs, finished).missing() == runs


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(
    table: ResultTable, made: Path, tmp_path: Path
) -> None:
    runs = planned(table)[:1]

    @contextmanager
    def stop_at_once(run: PlannedRun, trainer: Trainer) -> Iterator[None]:
        trainer.stop_requested = True
        yield

    broken = reproduction(runs, tmp_path / "broken")
    with pytest.raises(Interrupted):
        broken.make(stop_at_once)
    assert broken.missing() == runs
    batches: list[int] = []

    @contextmanager
    def look(run: PlannedRun, trainer: Trainer) -> Iterator[None]:
        batches.append(trainer.batches_done)
        yield

    reproduction(runs, tmp_path / "broken").make(look)
    assert batches == [1]
    whole, resumed = (
        find(read_results(folder / "results"), runs[0]) for folder in (made, tmp_path / "broken")
    )
    assert whole is not None
    assert resumed is not None
    assert resumed.result["test_accuracy"] == whole.result["test_accuracy"]
    assert resumed.result["block_accuracy"] == whole.result["block_accuracy"]
    assert [record["loss"] for record in resumed.history] == [record["loss"] for record in whole.history]


def test_a_run_in_the_hands_of_another_process_is_left_alone(table: ResultTable, tmp_path: Path) -> None:
    runs = planned(table)
    (tmp_path / "work").mkdir()
    with FileLock(tmp_path / "work" / f"{runs[0].name}.lock"):
        outcome = reproduction(runs, tmp_path).make(untouched)
    assert (outcome.elsewhere, outcome.made) == (runs[:1], runs[1:])
    assert reproduction(runs, tmp_path).missing() == runs[:1]


def test_data_that_cannot_be_had_stops_only_its_own_rows(
    table: ResultTable, stripes_folder: Path, tmp_path: Path
) -> None:
    absent = [tiny_recipe(name, tmp_path / "nowhere") for name in ("symba", "trifecta")]
    mixed = replace(table, recipes=[*absent, *table.recipes])
    runs = planned(mixed)
    outcome = reproduction(runs, tmp_path).make(untouched)
    assert list(outcome.failed) == [run.name for run in runs[:2]]
    assert all("nowhere" in reason for reason in outcome.failed.values())
    assert outcome.made == runs[2:]


def test_a_damaged_result_file_is_named(table: ResultTable, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "ff_quick_seed-0_x_y.json").write_text("{")
    with pytest.raises(ValueError, match=r"not a result file: .*ff_quick_seed-0.*remove it"):
        reproduction(planned(table), tmp_path).missing()


def test_rows_sum_their_seeds(table: ResultTable, made: Path) -> None:
    runs = planned(table, seeds=2)
    stored = read_results(made / "results")
    ff, backprop = summarise(runs, stored)
    shares = [100 * run.result["test_accuracy"] for run in stored if run.name.startswith("ff")]
    assert ff.accuracy is not None
    assert backprop.accuracy is not None
    assert ff.accuracy.mean == pytest.approx(sum(shares) / 2)
    assert ff.accuracy.deviation == pytest.approx(abs(shares[0] - shares[1]) / 2**0.5)
    assert ff.record()["difference"] == pytest.approx(ff.accuracy.mean - 90)
    assert (backprop.accuracy.n, backprop.accuracy.deviation) == (1, None)
    assert backprop.record()["difference"] is None
    last = ff.blocks()[-1]
    assert last is not None
    named = [100 * run.result["readout_accuracy"]["last"] for run in ff.runs]
    assert last.mean == pytest.approx(sum(named) / 2)
    nothing = summarise(runs, [])[0]
    assert (nothing.accuracy, nothing.record()["difference"], nothing.mean("seconds")) == (None, None, None)
    assert nothing.blocks() == []
