"""Every setting of every method beside where its value comes from.

*Ours* marks what the paper leaves open, or a departure that the method's file states.
"""

from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from trifecta import get_method
from trifecta.data import AUGMENTATIONS, PUBLISHED_STATISTICS, Augmentation
from trifecta.nn.norms import NORMALIZATIONS, NormSite
from trifecta.recipes import RECIPES

Settings = dict[str, Any]

# Ours: the same optimizer for all, found on validation images of the training split.
ADAM: Settings = {
    "optimizer.algorithm": "adam",
    "optimizer.arguments": {},
    "optimizer.learning_rate": 3e-3,
    "optimizer.decay": "cosine",
    "optimizer.weight_decay": 0.0,
    "optimizer.ownership": "weight",
    "optimizer.freeze_from": 1.0,
    "optimizer.warmup": 0.0,
    "optimizer.clip_norm": None,
}
# Ours (docs/fast.md); momentum, rounds and coefficients are Jordan 2024's (tests/optim/test_muon.py).
MUON: Settings = ADAM | {"optimizer.algorithm": "muon", "optimizer.learning_rate": 6e-3}
ALONE: Settings = {
    "schedule.size": 1,
    "schedule.overlapping": False,
    "schedule.trains_remainder": True,
    "schedule.deep_supervision": False,
    "schedule.restarts": False,
}
# Dooms et al. 2023: (0,1)(2,3)… at even steps, (0)(1,2)… at odd ones.
PAIRS: Settings = ALONE | {"schedule.size": 2, "schedule.overlapping": True}
TOGETHER: Settings = ALONE | {"schedule.size": 0}
# Batch normalisation at the input as Dooms et al. 2023; convolution → batch norm → ReLU elsewhere.
BLOCKS: Settings = {
    "label_input": "none",
    "normalization": "batch",
    "activation": "relu",
    "dropout": 0.0,
    "negatives": "uniform",
    "superclasses": (),
    "finds_superclasses": False,
    "readout": "last",
}


def objective(kind: str, at: str = "objective", **settings: Any) -> Settings:
    return {f"{at}.kind": kind} | {f"{at}.{name}": value for name, value in settings.items()}


def classifier(at: str = "objective", **settings: Any) -> Settings:
    """A linear one of averages over a whole map, unless said otherwise."""
    plain = {"pool": 1, "smoothing": 0.0, "normalized": False, "hidden": 0}
    return objective("cross-entropy", at, **(plain | settings))


def combined(*parts: Settings, share: float = 1.0, weight: float = 1.0) -> Settings:
    whole = objective("combined", share=share, weight=weight)
    for part in parts:
        whole |= part
    return whole


def scoring(kind: str, **settings: Any) -> Settings:
    return objective(kind, "objective.scoring", **settings)


def term(kind: str, **settings: Any) -> Settings:
    return objective(kind, "objective.terms.0", **settings)


PUBLISHED: dict[str, Settings] = {
    # Dooms et al. 2023 (arXiv 2311.18130) and tdooms/trifecta: alpha 4, a learned picture of each label,
    # the last block's goodness; the optimizer is ours, the code's is in the recipes below.
    "trifecta": BLOCKS
    | PAIRS
    | ADAM
    | objective("symmetric", goodness="mean-square", skip_settled=0.0, alpha=4.0)
    | {"label_input": "channel"},
    # Ours: docs/equal-work.md, the search.
    "superfecta": BLOCKS | ALONE | MUON | classifier(pool=4, hidden=256) | {"readout": "all-but-first"},
    # Ours: docs/equal-work.md.
    "tierce": BLOCKS | PAIRS | MUON | objective("label-goodness", alpha=128.0, pool=4, reads="output"),
    # Hinton 2022 (arXiv 2212.13345), section 3: all blocks but the first predict. The threshold of 2 for a
    # mean of squares is Dooms et al.'s.
    "ff": BLOCKS
    | ALONE
    | ADAM
    | objective("threshold", goodness="mean-square", skip_settled=0.0, threshold=2.0)
    | {"label_input": "channel", "normalization": "length", "readout": "all-but-first"},
    # Lee & Song 2023 (arXiv 2303.08418): a fixed pattern of each class; alpha 4 as in Dooms et al.
    "symba": BLOCKS
    | ALONE
    | ADAM
    | objective("symmetric", goodness="mean-square", skip_settled=0.0, alpha=4.0)
    | {"label_input": "pattern", "normalization": "length", "readout": "all-but-first"},
    # Ours: CwComp's goodness on the Trifecta's blocks.
    "class-groups": BLOCKS
    | PAIRS
    | ADAM
    | objective("group-cross-entropy", goodness="mean-square", temperature=1.0),
    # Papachristodoulou et al. 2024 and andreaspapac/CwComp: layers until epochs 11, 16, 21, 25 of 25.
    "cwcomp": BLOCKS
    | ALONE
    | ADAM
    | objective("group-cross-entropy", goodness="mean-square", temperature=1.0)
    | {"normalization": "batch-output", "optimizer.freeze_from": 11 / 25},
    # Sun et al. 2025 (ICLR) and their code: no temperature, dropout 0.2, all layers but the first.
    "deeper-forward": BLOCKS
    | ALONE
    | ADAM
    | objective("group-cross-entropy", goodness="mean", temperature=1.0)
    | {"normalization": "class-groups", "dropout": 0.2, "readout": "all-but-first"},
    # Gong et al. 2025 (arXiv 2509.12394): the abstract. Four patches a side are ours.
    "asge": BLOCKS
    | ALONE
    | ADAM
    | objective("projected-cross-entropy", patches=4, learned_temperature=False),
    # Chen 2026 (arXiv 2606.06539): the abstract. Two patches and the later half are ours.
    "dtg-ff": BLOCKS
    | ALONE
    | ADAM
    | objective("projected-cross-entropy", patches=2, learned_temperature=True)
    | {"readout": "last-half"},
    # Gong, Li, Abdulla 2025 (arXiv 2501.09238): every activation is an input of the projection.
    "mono-forward": BLOCKS | ALONE | ADAM | classifier(pool=0),
    # Yao et al. 2026 (arXiv 2605.24797) and JNNNNYao/HCL-FF: weights 1 and 1, 128 features, from 0.8 to
    # 0.2 in 50 epochs and to 0.1 by a cosine; DeeperForward's blocks.
    "hcl-ff": BLOCKS
    | ALONE
    | ADAM
    | combined(
        scoring("group-cross-entropy", goodness="mean", temperature=1.0),
        term("supervised-contrastive", weight=1.0, features=128),
    )
    | {
        f"objective.terms.0.temperature.{name}": value
        for name, value in {"first": 0.8, "second": 0.2, "last": 0.1, "epochs": 50}.items()
    }
    | {
        "normalization": "class-groups",
        "dropout": 0.2,
        "finds_superclasses": True,
        "readout": "all-but-first",
    },
    # Wu et al. 2024 (arXiv 2408.14925): the abstract. Averages to 4×4 and a margin of 1 are ours.
    "distance-forward": BLOCKS | PAIRS | ADAM | objective("centroid-margin", pool=4, margin=1.0),
    # Chen et al. 2025 (arXiv 2409.11593) and their code, three layers on CIFAR-10. The probe is ours.
    "scff": BLOCKS
    | ALONE
    | ADAM
    | objective(
        "position-thresholds",
        positive=(0.0, 5.0, 6.0),
        negative=(1.0, 9.0, 10.0),
        penalty=(0.0012, 0.0007, 0.0005),
        pool=4,
    )
    | {"label_input": "other-image", "normalization": "none", "activation": "triangle", "readout": "all"},
    # Hinton 2022, section 3.2: all layers but the first are read. The threshold is that of ff.
    "masked-mix": BLOCKS
    | ALONE
    | ADAM
    | combined(
        classifier("objective.scoring", pool=4),
        term("contrast", weight=1.0),
        objective(
            "threshold", "objective.terms.0.loss", goodness="mean-square", skip_settled=0.0, threshold=2.0
        ),
        share=0.0,
    )
    | {"label_input": "masked-mix", "normalization": "length", "readout": "all-but-first"},
    # Nøkland & Eidnes 2019 and anokland/local-loss: --dim-in-decoder 2048 and --beta 0.99 of the published
    # CIFAR-10 runs of VGG8B.
    "pred": BLOCKS | ALONE | ADAM | objective("local-prediction", at_most=2048),
    "sim": BLOCKS
    | ALONE
    | ADAM
    | combined(scoring("local-prediction", at_most=2048), term("similarity", weight=1.0), share=0.0),
    "predsim": BLOCKS
    | ALONE
    | ADAM
    | combined(scoring("local-prediction", at_most=2048), term("similarity", weight=0.99), weight=0.01),
    # Belilovsky et al. 2020 and eugenium/DGL: the network cnn has no settings.
    "dgl": BLOCKS | ALONE | ADAM | objective("auxiliary-cross-entropy"),
    # Ma et al. 2024 and ChenxiangMA/AugLocal: no smoothing; of the depths 1 … 9 of the paper, 2.
    "auglocal": BLOCKS | ALONE | ADAM | objective("augmented-auxiliary", depth=2, smoothing=0.0),
    # Ororbia et al. 2023; the step of AnkurMali/LRA-E, their code for its predecessor.
    "rec-lra": BLOCKS | ALONE | ADAM | objective("local-targets", step=0.1),
    # Rumelhart, Hinton, Williams 1986.
    "backprop": BLOCKS | TOGETHER | ADAM | classifier(),
    # Lee et al. 2015: a loss at every block.
    "deep-supervision": BLOCKS | TOGETHER | ADAM | classifier() | {"schedule.deep_supervision": True},
}


def flat(part: Any, path: str = "") -> dict[str, Any]:
    """Every field of a dataclass and of those inside, by its path."""
    if isinstance(part, tuple) and part and is_dataclass(part[0]):
        return {
            key: value for k, each in enumerate(part) for key, value in flat(each, f"{path}.{k}").items()
        }
    if not is_dataclass(part):
        return {path: part}
    found = {f"{path}.kind": part.kind} if hasattr(part, "kind") else {}
    for each in fields(part):
        found |= flat(getattr(part, each.name), f"{path}.{each.name}".lstrip("."))
    return found


@pytest.mark.parametrize("method", PUBLISHED)
def test_every_setting_is_the_published_one_or_one_of_ours(method: str) -> None:
    expected = {"name": method} | PUBLISHED[method]
    assert flat(get_method(method)) == expected


def test_optimizers_and_augmentation_of_published_recipes() -> None:
    """tdooms/trifecta, main.py: Adam at 0.001, batches of 512, crops of 4 pixels, turns of 15 degrees."""
    published = [recipe for name, recipe in RECIPES.items() if name.startswith("published-trifecta")]
    assert len(published) == 8
    for recipe in published:
        config = recipe("full")
        own = {
            "optimizer.learning_rate": 1e-3,
            "optimizer.decay": "constant",
            "optimizer.ownership": "objective",
            "schedule.trains_remainder": False,
            "schedule.restarts": True,
        }
        assert flat(config.method) == {"name": "trifecta"} | PUBLISHED["trifecta"] | own
        assert (config.batch_size, config.epochs, config.width) == (512, 100, 1.0)
        assert config.augmentation == Augmentation(crop_padding=4, rotation=15.0)
        assert config.augmentation == AUGMENTATIONS["crop-rotate"]


def test_each_factor_away_from_the_trifecta_is_one_published_choice() -> None:
    """What tdooms/trifecta does and the library does not, one at a time."""
    base = flat(get_method("trifecta"))
    changed = {
        name: {
            key: value
            for key, value in flat(RECIPES[f"factor-{name}-small-cifar10"].base.method).items()
            if base[key] != value
        }
        for name in (
            "two-states",
            "idle-last",
            "restarts",
            "constant-rate",
            "alpha-1",
            "alpha-16",
            "running",
        )
    }
    assert changed == {
        "two-states": {"optimizer.ownership": "objective"},
        "idle-last": {"schedule.trains_remainder": False},
        "restarts": {"schedule.restarts": True},
        "constant-rate": {"optimizer.learning_rate": 1e-3, "optimizer.decay": "constant"},
        "alpha-1": {"objective.alpha": 1},
        "alpha-16": {"objective.alpha": 16},
        "running": {"normalization": "running"},
    }


def test_constants_of_images_are_those_of_the_code() -> None:
    """tdooms/trifecta, main.py: mean and deviation by which images are normalised."""
    assert {name: (each.mean, each.std) for name, each in PUBLISHED_STATISTICS.items()} == {
        "mnist": ((0.1307,), (0.3081,)),
        "fashion-mnist": ((0.2860,), (0.3530,)),
        "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    }


@pytest.mark.parametrize(
    ("name", "eps"),
    [
        ("batch", 1e-5),  # PyTorch's own, as in all code that was compared
        ("batch-output", 1e-4),  # andreaspapac/CwComp
        ("class-groups", 1e-5),  # the code of Sun et al. 2025
        ("length", 1e-5),  # ours: see methods/ff.py
        ("layer", 1e-5),  # PyTorch's own
        ("layer-elementwise", 1e-5),
        ("running", 1e-5),
    ],
)
def test_epsilon_of_normalisations(name: str, eps: float) -> None:
    assert NORMALIZATIONS[name](NormSite(shape=(4, 2, 2), first=False, num_classes=2)).eps == eps
