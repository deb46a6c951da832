"""What a shortlist costs a trained run: test accuracy for every number of labels kept.

python benchmarks/shortlist.py RESULTS.jsonl RUN
"""

from pathlib import Path

from recording import append, command_line
from trifecta._utils.devices import resolve_device
from trifecta.bench import conditions
from trifecta.data import load_data
from trifecta.training import RunFolder, evaluate, load


def main() -> None:
    """Evaluate with all labels, then with fewer and fewer, and append one line."""
    given = command_line(__doc__, "results", "run").parse_args()
    config, facts = RunFolder(given.run).read_config()
    device = resolve_device(config.device)
    model = load(given.run, device=str(device))
    network = model.network
    assert config.data is not None
    test = load_data(config.data).to(device).test
    accuracy = {}
    for labels in (network.num_classes, 5, 4, 3, 2):
        if labels < network.num_classes:
            network.keep_labels(labels)
        measured = evaluate(network, test, mean=facts.mean, std=facts.std, precision=model.precision)
        accuracy[labels] = measured.accuracy
    row = {
        "command": "python benchmarks/shortlist.py RESULTS.jsonl RUN",
        "data": Path(config.data.source).name,
        "network": config.network,
        "width": config.width,
        "epochs": config.epochs,
        "seed": config.seed,
        **conditions(device),
        "accuracy": accuracy,
    }
    append(given.results, row)


if __name__ == "__main__":
    main()
