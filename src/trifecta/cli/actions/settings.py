"""``--set path=value``: any setting of a run, by its place in the configuration."""

from collections.abc import Iterable
from types import ModuleType

from trifecta.training import RunConfig
from trifecta.training.config import changed, parse_yaml


def with_settings(
    config: RunConfig, assignments: Iterable[str], *, imports: Iterable[str | ModuleType] = ()
) -> RunConfig:
    """Return ``config`` with settings such as ``method.schedule.size=2`` changed, in order."""
    changes = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(
                f"--set takes setting=value, such as method.dropout=0.1: received '{assignment}'"
            )
        try:
            changes[path.strip()] = parse_yaml(text)
        except ValueError:
            raise ValueError(
                f"cannot read the value of --set {assignment}: quote it as YAML would"
            ) from None
    return changed(config, changes, imports=imports)
