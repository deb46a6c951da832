"""Tables of experiments: run what is missing, keep a result file a run, sum them up."""

from trifecta.experiments.plan import PlannedRun, plan
from trifecta.experiments.results import StoredRun, read_results, write_result
from trifecta.experiments.runner import Reproduction

__all__ = ["PlannedRun", "Reproduction", "StoredRun", "plan", "read_results", "write_result"]
