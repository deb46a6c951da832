"""The scikit-learn classifier beside scikit-learn's own, on scikit-learn's own small data sets.

    python benchmarks/estimators.py FILE.jsonl

Five stratified folds, two seeds: accuracy and log loss on the fold that is left out, seconds of a fit. All
have their default settings, behind a ``StandardScaler`` where they expect one. Run it on a machine that
does nothing else.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from recording import HERE
from trifecta import TrifectaClassifier

FOLDS, SEEDS = 5, (0, 1)
DATA: dict[str, Callable[..., Any]] = {
    "iris": load_iris,
    "wine": load_wine,
    "breast_cancer": load_breast_cancer,
    "digits": load_digits,
}
CLASSIFIERS: dict[str, Callable[[int], Any]] = {
    "superfecta": lambda seed: TrifectaClassifier("superfecta", random_state=seed),
    "mono-forward": lambda seed: TrifectaClassifier("mono-forward", random_state=seed),
    "trifecta": lambda seed: TrifectaClassifier("trifecta", random_state=seed),
    "backprop": lambda seed: TrifectaClassifier("backprop", random_state=seed),
    "MLPClassifier": lambda seed: make_pipeline(
        StandardScaler(), MLPClassifier(max_iter=1000, random_state=seed)
    ),
    "HistGradientBoostingClassifier": lambda seed: HistGradientBoostingClassifier(random_state=seed),
}


def main() -> int:
    """Measure, a line for each data set and classifier; the exit status."""
    made, lines = {"command": "python benchmarks/estimators.py", "seeds": list(SEEDS), **HERE}, []
    for data, load in DATA.items():
        rows, labels = load(return_X_y=True)
        for name, make in CLASSIFIERS.items():
            measured = measure(make, rows, labels) | {"data": data, "classifier": name}
            print(json.dumps(measured), flush=True)
            lines.append(json.dumps(measured | made))
    Path(sys.argv[1]).write_text("\n".join(lines) + "\n")
    return 0


def measure(make: Callable[[int], Any], rows: Any, labels: Any) -> dict[str, float]:
    """Accuracy and log loss on what is left out and seconds of a fit, over folds and seeds."""
    accuracies, losses, seconds = [], [], []
    for seed in SEEDS:
        for kept, left in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(rows, labels):
            classifier = make(seed)
            began = time.perf_counter()
            classifier.fit(rows[kept], labels[kept])
            seconds.append(time.perf_counter() - began)
            accuracies.append(float(classifier.score(rows[left], labels[left])))
            shares = classifier.predict_proba(rows[left])
            losses.append(float(log_loss(labels[left], shares, labels=classifier.classes_)))
    return {
        "accuracy": statistics.mean(accuracies),
        "deviation": statistics.stdev(accuracies),
        "log_loss": statistics.mean(losses),
        "fits": len(accuracies),
        "seconds": statistics.median(seconds),
    }


if __name__ == "__main__":
    sys.exit(main())
