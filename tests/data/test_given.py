"""Data that a program has at hand: what works gives the same tensors, all else is refused in one line."""

import re
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_iris
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)

from trifecta import RunConfig
from trifecta.data import DataConfig, ImageData, LoaderBatches, data_from, read_images
from trifecta.training.trainer import training_batches

# Most tests measure nothing, and test on what they train on.
pytestmark = pytest.mark.filterwarnings("ignore:.* are training:UserWarning")

N, K = 60, 3
IMAGES = torch.randn(N, 1, 6, 6, generator=torch.Generator().manual_seed(0))
BYTES = (IMAGES * 40 + 128).clamp(0, 255).to(torch.uint8)
COLOUR = torch.cat([BYTES, 255 - BYTES, BYTES // 2], 1)
LABELS = torch.arange(N) % K
HELD = (IMAGES[:9], LABELS[:9])
TEXT = np.array(["cat", "dog", "eel"])[LABELS.numpy()]
NAN, INF = float("nan"), float("inf")

Named = namedtuple("Named", ["label", "image"])


class Made(Dataset[Any]):
    """Items that a function makes."""

    def __init__(self, item: Callable[[int], Any], count: int = N) -> None:
        self.item, self.count = item, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(IMAGES, LABELS.tolist(), strict=True))


class Counted(Stream):
    def __len__(self) -> int:
        return N


def collate_dicts(items: Any) -> dict[str, Any]:
    return {"pixel_values": torch.stack([x for x, _ in items]), "labels": [y for _, y in items]}


def own_loader(images: Tensor, labels: Tensor = LABELS) -> DataLoader[Any]:
    """Batches that only the loader knows how to make."""
    return DataLoader(TensorDataset(images, labels), 20, collate_fn=collate_dicts)


def with_value(value: float, at: int = 7) -> Tensor:
    images = IMAGES.clone()
    images[at, 0, 2, 3] = value
    return images


def batches_of(data: ImageData) -> list[tuple[Tensor, Tensor]]:
    assert data.loader is not None
    loader = LoaderBatches(
        data.loader, torch.device("cpu"), classes=data.classes, mean=data.mean, std=data.std
    )
    return list(loader.epoch(0))


def mean_by_class(images: Tensor, labels: Tensor) -> Tensor:
    """Something that does not depend on the order."""
    return torch.stack([images[labels == k].double().mean((0, 2, 3)) for k in range(K)])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param((IMAGES.numpy(), LABELS.numpy()), IMAGES, id="numpy"),
        pytest.param([IMAGES, LABELS], IMAGES, id="a list of both"),
        pytest.param((IMAGES.double(), LABELS), IMAGES, id="float64"),
        pytest.param((IMAGES.half(), LABELS.int()), IMAGES.half().float(), id="float16, int32"),
        pytest.param((IMAGES.bfloat16(), LABELS.to(torch.uint8)), IMAGES.bfloat16().float(), id="bfloat16"),
        pytest.param((IMAGES, LABELS[:, None]), IMAGES, id="labels in a column"),
        pytest.param((IMAGES, torch.eye(K, dtype=torch.int64)[LABELS]), IMAGES, id="one-hot"),
        pytest.param((IMAGES, np.eye(K)[LABELS.numpy()]), IMAGES, id="one-hot floats"),
        pytest.param((IMAGES, LABELS.float()), IMAGES, id="labels as floats"),
        pytest.param((IMAGES, LABELS.tolist()), IMAGES, id="labels in a list"),
        pytest.param((list(IMAGES), list(LABELS)), IMAGES, id="lists of tensors"),
        pytest.param((IMAGES, pd.Series(LABELS.numpy(), index=range(5, N + 5))), IMAGES, id="a series"),
        pytest.param({"image": IMAGES, "label": LABELS}, IMAGES, id="a mapping"),
        pytest.param((IMAGES.clone().requires_grad_(), LABELS), IMAGES, id="with a graph"),
        pytest.param((IMAGES.numpy()[:, :, :, ::-1], LABELS.numpy()), IMAGES.flip(3), id="backwards"),
        pytest.param((IMAGES.mT, LABELS), IMAGES.mT, id="not contiguous"),
        pytest.param((IMAGES.numpy().astype(">f4"), LABELS), IMAGES, id="big-endian"),
        pytest.param((IMAGES > 0, LABELS), (IMAGES > 0).float(), id="true and false"),
        pytest.param((IMAGES.movedim(1, -1), LABELS), IMAGES, id="channel last"),
        pytest.param((COLOUR.movedim(1, -1).numpy(), LABELS), COLOUR, id="bytes, channels last"),
        pytest.param((BYTES[:, 0], LABELS), BYTES, id="bytes without channels"),
        pytest.param((BYTES.numpy().astype(np.uint16), LABELS), BYTES, id="bytes in 16 bits"),
        pytest.param((BYTES.long(), LABELS), BYTES, id="bytes in 64 bits"),
        pytest.param(([Image.fromarray(x[0].numpy()) for x in BYTES], LABELS), BYTES, id="PIL images"),
        pytest.param(
            ([Image.fromarray(x.movedim(0, -1).numpy()) for x in COLOUR], LABELS), COLOUR, id="PIL, colour"
        ),
        pytest.param(list(zip(IMAGES, LABELS.tolist(), strict=True)), IMAGES, id="a list of items"),
    ],
)
def test_all_kinds_of_arrays_give_the_same_samples_and_labels(given: Any, expected: Tensor) -> None:
    data = data_from(given, validation=given, test=given)
    for part in (data.train, data.validation, data.test):
        assert part is not None
        assert part.images.dtype == expected.dtype
        assert torch.equal(part.images, expected)
        assert torch.equal(part.labels, LABELS)
        assert not part.images.requires_grad
    assert data.classes == ("0", "1", "2")
    assert data.counts == dict.fromkeys(("train", "validation", "test"), (20, 20, 20))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((16, 4, 4), (16, 4, 4)),
        ((16, 8, 4), (4, 16, 8)),
        ((64, 2, 3), (64, 2, 3)),
        ((32, 32, 3), (3, 32, 32)),
    ],
)
def test_channels_are_last_only_in_what_must_be_images(shape: Any, expected: Any) -> None:
    maps = torch.randn(N, *shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = data_from((maps, LABELS))
    assert data.sample_shape == expected
    told = (
        rf"train: samples of shape \({', '.join(map(str, shape))}\) are taken for images with channels last"
    )
    assert [bool(re.match(told, str(one.message))) for one in said] == [True] * (shape == (16, 8, 4))


def transparent(k: int, mode: str) -> Image.Image:
    """A colour over a transparent half."""
    image = Image.new("RGBA", (6, 6), (10 * k, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 6, 3))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_images_of_pil_are_those_that_files_have(mode: str, tmp_path: Path) -> None:
    images = [transparent(k, mode) for k in range(9)]
    for k, image in enumerate(images):
        image.save(tmp_path / f"{k}.png")
    channels = 1 if mode == "LA" else 3
    expected = read_images(sorted(tmp_path.iterdir()), image_shape=(channels, 6, 6))
    items = Made(lambda k: (images[k], k % K), 9)
    for given in ((images, LABELS[:9]), items):
        data = data_from((COLOUR[:, :channels], LABELS), test=given)
        assert torch.equal(data.test.images, expected)


@pytest.mark.parametrize("kind", [tuple, list])
def test_two_samples_are_told_from_two_items(kind: Any) -> None:
    pairs = kind(kind([IMAGES[k], k]) for k in range(2))
    both = kind([kind([IMAGES[0], IMAGES[1]]), kind([0, 1])])
    for given in (pairs, both):
        data = data_from((IMAGES, LABELS), test=given)
        assert torch.equal(data.test.images, IMAGES[:2])
        assert data.test.labels.tolist() == [0, 1]


def test_items_of_thousands_are_looked_at_in_part() -> None:
    count = 2500
    many = Made(lambda k: (IMAGES[k % N], k % K), count)
    with pytest.warns(UserWarning, match="30 of 60 test images are training images too"):
        data = data_from(many, test=(IMAGES, LABELS))
    assert sum(data.counts["train"]) == count  # type: ignore[arg-type]


def test_a_table_of_whole_numbers_is_no_text() -> None:
    table = pd.DataFrame({"a": np.arange(N), "b": np.linspace(0, 1, N), "c": np.arange(N) % 2 == 0})
    data = data_from((table, pd.Series(TEXT)), test=(table, pd.Series(TEXT)), share=0)
    assert torch.equal(data.train.images, torch.from_numpy(table.to_numpy(np.float32)))
    assert data.classes == ("cat", "dog", "eel")
    tokens = data_from((torch.zeros(N, 5, dtype=torch.int32), LABELS), share=0)
    assert tokens.train.images.dtype == torch.int64


def test_labels_of_positions_stay() -> None:
    tokens = torch.arange(N * 4).view(N, 4) % 5
    following = (tokens + 1) % 5
    data = data_from((tokens, following), test=(tokens, following), share=0)
    assert torch.equal(data.train.labels, following)
    assert data.counts == {"train": N, "test": N}


def test_one_hot_rows_as_wide_as_signals_have_channels_are_classes() -> None:
    signals, marked = IMAGES.view(N, 3, -1), torch.eye(K, dtype=torch.int64)[LABELS]
    told = r"^train: labels \(N, 3\) with one 1 a row are taken for one-hot, not for 0 and 1 at each pos"
    for given, test in (((signals, marked), marked), (TensorDataset(signals, marked), LABELS)):
        with pytest.warns(UserWarning, match=told):
            data = data_from(given, test=(signals, test), share=0, batch_size=N)
        assert data.test.labels.equal(LABELS)
        batches = training_batches(RunConfig(batch_size=N), data, torch.device("cpu"))
        ((samples, labels),) = batches.epoch(0, generator=torch.Generator())
        index = (samples[:, None] == signals).flatten(2).all(2).int().argmax(1)
        assert labels.equal(LABELS[index])
    named = {"classes": ["a", "b", "c"]}
    assert data_from((signals, marked), **named).sample_shape == (3, 12)  # type: ignore[arg-type]
    marked[22] = 1 - marked[22]
    with pytest.raises(ValueError, match=r"^test: sample 22 has 2 of 3 classes, and one class a sample"):
        data_from((signals[:20], marked[:20]), test=(signals, marked), **named)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4,), (4, 4), (6, 4)])
def test_one_hot_rows_that_may_be_labels_of_positions_are_refused(shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    samples = torch.randint(9, (N, *shape), generator=draw)
    samples = samples if len(shape) == 1 else samples.float()
    numbers = torch.arange(N) % 4
    marked = torch.eye(4, dtype=torch.int64)[numbers]
    for given in ((samples, marked), TensorDataset(samples, marked)):
        with pytest.raises(ValueError, match=r"labels \(N, 4\) with one 1 a row .*: give class numbers"):
            data_from(given, test=(samples, numbers), batch_size=20)
    with pytest.raises(ValueError, match=r"^test has labels \(N, 4\), and train has \(N,\): give"):
        data_from((samples, numbers), test=(samples, marked))
    for data in (
        data_from((samples, marked), classes=["no", "yes"], share=0),
        data_from((samples, torch.cat([marked[1:], 1 - marked[:1]])), share=0),
    ):
        assert (data.train.labels.shape[1:], len(data.classes)) == ((4,), 2)
    # A single row proves nothing where training has labels of positions.
    data = data_from((samples, 1 - marked), test=(samples[:1], marked[:1]), share=0)
    assert torch.equal(data.test.labels, marked[:1])


def test_rows_and_labels_in_another_order_of_one_index_are_refused() -> None:
    rows, labels = pd.DataFrame(IMAGES.flatten(1).numpy()), pd.Series(LABELS.numpy())
    for other in (labels[::-1], labels.to_frame()[::-1]):
        with pytest.raises(
            ValueError, match=r"^train: rows and labels go together by position, .*rows.index\]"
        ):
            data_from((rows, other))
    by_position = data_from(
        (rows, labels[::-1].set_axis(range(5, N + 5))), share=0, test=(IMAGES[:9].flatten(1), LABELS[:9])
    )
    assert torch.equal(by_position.train.labels, LABELS.flip(0))


@pytest.mark.parametrize(
    "values", [TEXT, TEXT.tolist(), TEXT.astype(object), pd.Series(TEXT), TEXT[:, None]]
)
def test_labels_that_are_names_are_sorted_to_classes(values: Any) -> None:
    data = data_from((IMAGES, values), test=(IMAGES[:2], ["eel", "cat"]))
    assert data.classes == ("cat", "dog", "eel")
    assert data.test.labels.tolist() == [2, 0]
    data = data_from((IMAGES, values), test=(IMAGES[:2], ["eel", "cat"]), classes=["eel", "dog", "cat"])
    assert data.test.labels.tolist() == [0, 2]


def test_digits_as_text_and_as_numbers_are_the_same_classes() -> None:
    as_text = LABELS.numpy().astype(str)
    for train, test in ((as_text, LABELS), (LABELS, as_text)):
        data = data_from((IMAGES, train), test=(IMAGES, test), share=0)
        assert torch.equal(data.test.labels, LABELS)


def item(k: int) -> tuple[Tensor, int]:
    return IMAGES[k], int(LABELS[k])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(TensorDataset(IMAGES, LABELS), IMAGES, id="tensors"),
        pytest.param(Subset(TensorDataset(IMAGES, LABELS), range(N)), IMAGES, id="Subset"),
        pytest.param(
            ConcatDataset([Made(item, 30), Made(lambda k: item(k + 30), 30)]), IMAGES, id="Concat"
        ),
        pytest.param(random_split(TensorDataset(IMAGES, LABELS), [1.0])[0], IMAGES, id="random_split"),
        pytest.param(Made(lambda k: (IMAGES[k].numpy(), LABELS[k].numpy())), IMAGES, id="numpy"),
        pytest.param(Made(lambda k: (IMAGES[k].double(), LABELS[k : k + 1])), IMAGES, id="float64"),
        pytest.param(Made(lambda k: (IMAGES[k], torch.eye(K)[LABELS[k]])), IMAGES, id="one-hot"),
        pytest.param(Made(lambda k: (IMAGES[k], float(LABELS[k]))), IMAGES, id="labels as floats"),
        pytest.param(
            Made(lambda k: {"image": IMAGES[k], "label": int(LABELS[k]), "n": k}), IMAGES, id="dict"
        ),
        pytest.param(Made(lambda k: Named(int(LABELS[k]), IMAGES[k])), IMAGES, id="namedtuple"),
        pytest.param(Made(lambda k: [IMAGES[k], int(LABELS[k])]), IMAGES, id="list"),
        pytest.param(
            Made(lambda k: (Image.fromarray(BYTES[k, 0].numpy()), 0 + LABELS[k])), BYTES, id="PIL"
        ),
        pytest.param(Made(lambda k: (COLOUR[k].movedim(0, -1).numpy(), LABELS[k])), COLOUR, id="bytes"),
        pytest.param(
            datasets.Dataset.from_dict(
                {
                    "label": LABELS.tolist(),
                    "image": [Image.fromarray(x.movedim(0, -1).numpy()) for x in COLOUR],
                }
            ),
            COLOUR,
            id="Hugging Face",
        ),
    ],
)
def test_items_of_all_kinds_make_the_same_batches(given: Any, expected: Tensor) -> None:
    data = data_from(given, test=given, batch_size=20)
    assert data.counts == {"train": (20, 20, 20), "test": (20, 20, 20)}
    images, labels = map(torch.cat, zip(*batches_of(data), strict=True))
    assert images.dtype == torch.float32
    assert len(images) == N
    assert torch.equal(data.test.labels.bincount(), labels.bincount())
    if expected.dtype == torch.uint8:  # normalised by their own statistics
        assert torch.equal(data.test.images, expected)
        assert images.mean((0, 2, 3)).abs().max() < 1e-5
        torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(images.shape[1]))
    else:
        torch.testing.assert_close(mean_by_class(images, labels), mean_by_class(expected, LABELS))


@pytest.mark.parametrize("options", [{}, {"collate_fn": collate_dicts}, {"batch_size": None}])
def test_loaders_of_all_kinds(options: dict[str, Any]) -> None:
    batched = TensorDataset(IMAGES.view(3, 20, 1, 6, 6), LABELS.view(3, 20))
    source = batched if "batch_size" in options else TensorDataset(IMAGES, LABELS)
    loader = DataLoader(source, **{"batch_size": 20, **options})
    shuffled = DataLoader(TensorDataset(IMAGES, LABELS), 7, shuffle=True)
    data = data_from(loader, test=shuffled)
    assert data.counts["train"] == ((20, 20, 20) if not options else len(source))
    images, labels = map(torch.cat, zip(*batches_of(data), strict=True))
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)
    torch.testing.assert_close(
        mean_by_class(data.test.images, data.test.labels), mean_by_class(IMAGES, LABELS)
    )


def test_a_stream_with_a_length_trains_and_one_without_tests() -> None:
    data = data_from(Counted(), test=Stream(), batch_size=20)
    assert [len(labels) for _, labels in batches_of(data)] == [20, 20, 20]
    assert data.counts == {"train": N, "test": (20, 20, 20)}


def numpy_state() -> Any:
    return np.random.get_state(legacy=False)["state"]["key"].tolist()


def test_looking_at_items_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(IMAGES, LABELS), 20, shuffle=True, generator=generator)
    noisy = Made(lambda k: (IMAGES[k] + torch.rand(()) + float(np.random.rand()), k % K))
    for given in (loader, noisy):
        before = generator.get_state(), torch.get_rng_state(), numpy_state()
        data_from(given, test=HELD, batch_size=20)
        assert torch.equal(before[0], generator.get_state())
        assert torch.equal(before[1], torch.get_rng_state())
        assert before[2] == numpy_state()


def test_names_that_a_data_set_declares_are_its_classes() -> None:
    features = datasets.Features(
        {"x": datasets.Sequence(datasets.Value("float32")), "y": datasets.ClassLabel(names=["b", "a", "c"])}
    )
    rows = datasets.Dataset.from_dict(
        {"x": IMAGES.flatten(1).tolist(), "y": LABELS.tolist()}, features=features
    )
    data = data_from(rows, test=rows, batch_size=20)
    assert data.classes == ("b", "a", "c")
    assert torch.equal(data.test.images, IMAGES.flatten(1))


class Folder(Dataset[Any]):
    """Images of classes in turn, with the names that their numbers stand for."""

    def __init__(self, classes: str) -> None:
        self.classes = list(classes)

    def __len__(self) -> int:
        return 24

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        number = k % len(self.classes)
        return torch.full((1, 4, 4), ord(self.classes[number]) / 100), number


def hugging_face(classes: str) -> Any:
    names = datasets.ClassLabel(names=list(classes))
    features = datasets.Features({"x": datasets.Sequence(datasets.Value("float32")), "label": names})
    images, labels = zip(*(Folder(classes)[k] for k in range(24)), strict=True)
    rows = {"x": [image.flatten().tolist() for image in images], "label": list(labels)}
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize(
    "kind",
    [
        Folder,
        hugging_face,
        lambda classes: DataLoader(Folder(classes), 5),
        lambda classes: Subset(Folder(classes), range(23)),
        lambda classes: Subset(
            ConcatDataset([Folder(classes), Subset(Folder(classes), [1, 2])]), range(25)
        ),
    ],
)
@pytest.mark.parametrize("classes", ["abc", "bc", "cab"])
def test_numbers_of_other_splits_are_classes_by_their_names(
    kind: Callable[[str], Any], classes: str
) -> None:
    data = data_from(kind("abc"), validation=kind(classes), test=kind(classes), batch_size=12)
    for split in (data.validation, data.test):
        assert split is not None
        values = split.images.flatten(1)[:, 0]
        assert torch.equal(split.labels, (values * 100).round().long() - ord("a"))


def test_a_name_that_training_lacks_is_refused_in_other_splits() -> None:
    with pytest.raises(
        ValueError, match=r"^test: sample 2 has label 'd', which is none of the 3 classes of"
    ):
        data_from(Folder("abc"), test=Folder("acd"), batch_size=12)
    named = (torch.rand(24, 1, 4, 4) / 50 + 0.97, np.array(["a", "b", "c"] * 8))
    assert data_from(named, test=Folder("cb")).test.labels.tolist() == [2, 1] * 12
    # Numbers that a transform made are no longer those of the names.
    own = Folder("bc")
    own.target_transform = lambda number: number + 1  # type: ignore[attr-defined]
    assert data_from(Folder("abc"), test=own, batch_size=12).test.labels.tolist() == [0, 1] * 12


def without_names(given: Dataset[Any]) -> Dataset[Any]:
    return Made(lambda k: given[k], 24)


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        (
            Folder("abc"),
            ConcatDataset([without_names(Folder("bc"))] * 2),
            "train does, test does not, .* 3 and 2",
        ),
        (without_names(Folder("abc")), Folder("bc"), "test does, train does not, and they have 3 and 2"),
        (Folder("abc"), without_names(Folder("abc")), None),
        (without_names(Folder("abc")), Folder("abc"), None),
        (Folder("abc"), TensorDataset(torch.ones(2, 1, 4, 4), torch.arange(2)), None),
    ],
)
def test_class_numbers_that_one_split_alone_names_are_said(train: Any, test: Any, told: str | None) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data_from(train, test=test, batch_size=12)
    found = [str(one.message) for one in said if "matched by name only" in str(one.message)]
    assert len(found) == (told is not None)
    assert told is None or re.search(told, found[0])


def test_data_sets_of_one_split_with_other_classes_are_refused() -> None:
    mixed: Dataset[Any] = ConcatDataset([Folder("abc"), Folder("bc")])
    told = r"^data sets in one split have the same classes in the same order: received .'a', 'b', 'c'. and"
    for train, test in ((mixed, Folder("abc")), (Folder("abc"), Subset(mixed, range(30)))):
        with pytest.raises(ValueError, match=told):
            data_from(train, test=test, batch_size=12)


def no_batches() -> DataLoader[Any]:
    return DataLoader(TensorDataset(IMAGES, LABELS), 100, drop_last=True)


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        # Values
        ((with_value(NAN), LABELS), {}, r"sample 7 of train has a value that is nan"),
        ((with_value(-INF), LABELS), {}, r"sample 7 of train has a value that is -inf"),
        (
            (IMAGES, LABELS),
            {"test": (with_value(INF), LABELS)},
            r"sample 7 of test has a value that is inf",
        ),
        ((IMAGES, LABELS), {"validation": (with_value(NAN, 59), LABELS)}, "sample 59 of validation has"),
        (Made(lambda k: (with_value(NAN)[k], k % K)), {"test": HELD}, "sample 7 of train has"),
        (
            own_loader(with_value(NAN)),
            {"test": HELD},
            "sample 7 of train, batch 1 has",
        ),
        ((IMAGES.to(torch.complex64), LABELS), {}, "samples are floats .*, not complex64"),
        (
            (BYTES.to(torch.int32) * 16, LABELS),
            {},
            r"whole numbers in images are 0 … 255: received \d+ … \d+",
        ),
        ((BYTES.flatten(1), LABELS), {}, "for anything else give floats"),
        (([IMAGES[0], IMAGES[1][:, :3]], [0, 1]), {}, r"samples of train have one shape: received"),
        (([[1, 2], [3]], [0, 1]), {}, "samples of train are no array of numbers"),
        ((IMAGES[:, 0, 0, 0], LABELS), {}, r"floats \(N, F\)"),
        # Forms
        (IMAGES, {}, r"takes \(samples, labels\), a Dataset or a DataLoader, not a Tensor"),
        (pd.DataFrame({"a": [1, 2]}), {}, r"a DataLoader, not a DataFrame"),
        ((IMAGES, LABELS, LABELS), {}, "has keys image and label, not 3 values"),
        (
            TensorDataset(IMAGES, LABELS, LABELS),
            {"test": HELD},
            "has keys image and label, not 3 values",
        ),
        (TensorDataset(IMAGES), {"test": HELD}, "has keys image and label, not 1 values"),
        (Made(lambda k: {"a": 1, "b": 2}), {"test": HELD}, "an item is a pair .*, not keys a, b"),
        (
            {"train": HELD, "test": HELD},
            {},
            r"train is a pair .*, not keys train, test; give each .* test=splits\['test'\]",
        ),
        ("digits", {}, r"a source with a name belongs into RunConfig\(data=…\)"),
        (iter([HELD]), {}, "a Dataset or a DataLoader, not a list_iterator"),
        (Stream(), {"test": HELD}, "without a length, or of no batch"),
        (Made(item, 0), {"test": HELD}, "without a length, or of no batch"),
        (no_batches(), {"test": HELD}, "without a length, or of no batch"),
        (TensorDataset(IMAGES, LABELS), {}, "needs test images beside it"),
        (Made(lambda k: (torch.zeros(1, 6, 6 + k % 2), 0)), {"test": HELD}, "have one shape"),
        (
            ([Image.new("L", (6, 6)), Image.new("RGB", (6, 6))], [0, 1]),
            {},
            r"\(1, 6, 6\) L and \(3, 6, 6\) RGB; resize or",
        ),
        (
            (IMAGES, LABELS),
            {"test": Made(lambda k: (torch.zeros(1, 6, 6 + k // 256), k % K), 300)},
            r"one shape and type: received float32 \(N, 1, 6, 6\) and float32 \(N, 1, 6, 7\)",
        ),
        # Sizes
        ((IMAGES[:0], LABELS[:0]), {}, "train has no samples"),
        ((IMAGES, LABELS), {"test": (IMAGES[:0], LABELS[:0])}, "test has no samples"),
        ((IMAGES, LABELS), {"validation": (IMAGES[:0], LABELS[:0])}, "validation has no samples"),
        ((IMAGES, LABELS), {"test": no_batches()}, "test has no samples"),
        (
            DataLoader(Made(lambda k: (Image.new("L", (6, 6)), 0)), 20),
            {"test": HELD},
            "hand over its Dataset",
        ),
        (
            DataLoader(TensorDataset(IMAGES, LABELS % 2), 20),
            {"test": HELD},
            "sample 2 has label 2, which is",
        ),
        (DataConfig(source="digits"), {}, "belongs into RunConfig"),
        ((IMAGES, LABELS[1:]), {}, r"received 60 samples \(60, 1, 6, 6\) with labels \(59,\)"),
        # Labels
        ((IMAGES, LABELS - 1), {}, "train: sample 0 has label -1, which is none of"),
        ((IMAGES, LABELS), {"test": (IMAGES, LABELS - 1)}, "test: sample 0 has label -1, which is none of"),
        ((IMAGES, LABELS), {"test": (IMAGES, LABELS + 1)}, "test: sample 2 has label 3, which is none of"),
        ((IMAGES, LABELS), {"validation": (IMAGES, LABELS + 1)}, "validation: sample 2 has label 3"),
        (
            (IMAGES, LABELS),
            {"test": (IMAGES, LABELS), "classes": ["a", "b"]},
            r"sample 2 has label 2, which is none of the 2 classes of training \(a, b\)",
        ),
        ((IMAGES, LABELS), {"classes": ["a", "b", "a"]}, "classes are different names"),
        ((IMAGES, LABELS % 2), {"test": HELD, "classes": "abc"}, "classes are different names"),
        (
            (IMAGES, LABELS % 2),
            {"test": HELD, "classes": ["a", "b", "c"]},
            r"sample 2 has label 2, which is none of the 2 classes of training \(a, b\)",
        ),
        (
            Made(lambda k: (IMAGES[k], k % 2)),
            {"test": HELD},
            "test: sample 2 has label 2, which is none of",
        ),
        ((IMAGES, LABELS + 1), {}, "received 3 from 1 to 3; number them by"),
        ((IMAGES, LABELS * 300), {}, "received 3 from 0 to 600"),
        ((IMAGES, LABELS * 500_000), {}, "received 3 from 0 to 1000000"),
        ((IMAGES, LABELS * 2**30), {}, "received 3 from 0 to 2147483648"),
        ((IMAGES, LABELS * 2**40), {}, "received 3 from"),
        (Made(lambda k: (IMAGES[k], k % K * 2**40)), {"test": HELD}, "received 3 from"),
        (
            DataLoader(TensorDataset(IMAGES, LABELS * 2**40), 20),
            {"test": HELD},
            "received 3 from",
        ),
        ((torch.ones(N, 2).long(), torch.ones(N, 2).long() * 2**40), {}, "received 1 from"),
        (
            (IMAGES, torch.ones(N, 3)),
            {},
            "train: sample 0 has 3 of 3 classes, and one class a sample is exp",
        ),
        ((IMAGES.flatten(1), np.eye(5)[LABELS] * 0), {}, "train: sample 0 has 0 of 5 classes, and one"),
        ((IMAGES, LABELS + 0.5), {}, r"train: sample 0 has label 0.5, which is no class"),
        (
            (IMAGES, TEXT),
            {"test": (IMAGES[:2], ["cat", "fox"])},
            "test: sample 1 has label 'fox', which is none",
        ),
        # Splits that do not go together
        ((IMAGES, LABELS), {"test": (BYTES, LABELS)}, r"test has samples uint8 .* and train has float32"),
        ((BYTES, LABELS), {"validation": HELD}, "validation has samples float32 .* and train has uint8"),
        ((IMAGES, LABELS), {"test": (IMAGES[..., :5], LABELS)}, r"\(N, 1, 6, 5\), and train has"),
        ((IMAGES, LABELS), {"test": (IMAGES * 255, LABELS)}, "test is on another scale than train"),
        ((IMAGES * 255, LABELS), {"validation": HELD}, "validation is on another scale"),
        (
            (IMAGES, LABELS),
            {"test": (IMAGES * 20 + 100, LABELS)},
            r"test is on another scale than train: channel 0 is \d+",
        ),
        ((np.ma.masked_greater(IMAGES.numpy(), 0.5), LABELS), {}, "samples of train are masked in places"),
        (TensorDataset(IMAGES, LABELS), {"test": (BYTES, LABELS)}, "test has samples uint8"),
        (
            (BYTES, LABELS),
            {"test": (BYTES // 128, LABELS)},
            "test is on another scale than train: channel 0",
        ),
        ((COLOUR // 128, LABELS), {"test": (COLOUR, LABELS)}, "test is on another scale than train"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_line(
    train: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as found:
        data_from(train, **{"batch_size": 20, **options})
    assert "\n" not in str(found.value)


MISSING: list[Any] = [
    [0, None, 1],
    ["cat", None, "dog"],
    ["cat", NAN, "dog"],
    [0.0, NAN, 1.0],
    np.array([0, None, 1]),
    pd.Series([0, None, 1]),
    pd.Series([0, None, 1], dtype="Int64"),
    pd.Series(["cat", None, "dog"]),
    torch.tensor([0, NAN, 1]),
]


@pytest.mark.parametrize("labels", MISSING)
def test_a_missing_label_is_named_by_its_sample(labels: Any) -> None:
    few = (IMAGES[:3], labels)
    for train, test in ((few, HELD), ((IMAGES, LABELS), few)):
        with pytest.raises(
            ValueError, match=r"^(train|test): sample 1 has no label \((None|nan)\): give it"
        ):
            data_from(train, test=test)
    items = list(labels)
    with pytest.raises(ValueError, match=r"^train.*: sample \d has no label"):
        data_from(Made(lambda k: (IMAGES[k], items[k]), 3), test=HELD, batch_size=2)


def test_a_loader_that_cannot_put_labels_together_is_told() -> None:
    loader = DataLoader(Made(lambda k: (IMAGES[k], None)), 20)
    for train, test in ((loader, HELD), ((IMAGES, LABELS), loader)):
        with pytest.raises(ValueError, match=r"cannot put its items together .*NoneType.*: give each"):
            data_from(train, test=test)


@pytest.mark.parametrize("scaled", ["train", "test"])
def test_a_table_of_which_one_split_alone_is_scaled_is_told(scaled: str) -> None:
    columns, labels = load_iris(return_X_y=True)
    rows = {"train": columns, "test": columns}
    data_from((columns, labels), test=(columns + 0.3 * columns.std(0), labels))
    rows[scaled] = (columns - columns.mean(0)) / columns.std(0)
    with pytest.warns(UserWarning, match="test is on another scale than train: column 0 is"):
        data_from((rows["train"], labels), test=(rows["test"], labels))


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8), (64,)])
def test_samples_of_which_one_split_alone_is_normalised_are_said(shape: tuple[int, ...]) -> None:
    pixels, labels = load_digits(return_X_y=True)
    unit = torch.from_numpy(pixels).view(-1, *shape).float() / 16
    standard = (unit - unit.mean()) / unit.std()
    for train, test in ((standard, unit), (unit, standard), (2 * unit - 1, unit)):
        told = "test (is|may be) on another scale than train: " + (
            "column" if len(shape) == 1 else "channel"
        )
        with pytest.warns(UserWarning, match=told):
            data_from((train[:1500], labels[:1500]), test=(test[1500:], labels[1500:]))
    for start in range(0, 1500, 100):
        held = slice(start, start + 30)
        kept = np.r_[0:start, start + 30 : 1797]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data_from((standard[kept], labels[kept]), test=(standard[held], labels[held]))


TIMES = np.column_stack([np.full(60, 0.1), np.arange(60.0), 1.7e9 + np.arange(60)])


@pytest.mark.parametrize(
    ("given", "column"),
    [
        ((TIMES, LABELS), "2"),
        ((torch.from_numpy(TIMES), LABELS), "2"),
        ((pd.DataFrame(TIMES, columns=["a", "b", "time"]).astype({"time": "int64"}), LABELS), "time"),
        (Made(lambda k: (TIMES[k], int(LABELS[k]))), "2"),
    ],
)
def test_a_column_that_float32_rounds_away_is_said(given: Any, column: str) -> None:
    held = (torch.from_numpy(TIMES).float(), LABELS)
    told = (
        rf"^train.*: column {column} is 17000000\d\d ± 1\d\.\d, which float32 cannot tell apart: subtract"
    )
    with pytest.warns(UserWarning, match=told) as caught:
        data_from(given, test=held, batch_size=20)
    assert {warning.filename for warning in caught} == {__file__}
    data_from((TIMES - [0, 0, 1.7e9], LABELS))


@pytest.mark.parametrize("position", [25, 45])
def test_a_loader_names_a_bad_sample_when_it_comes(position: int) -> None:
    loader = own_loader(with_value(NAN, position))
    data = data_from(loader, test=HELD)
    with pytest.raises(ValueError, match=f"sample 5 of train, batch {position // 20 + 1} of epoch 1 has"):
        batches_of(data)
    skipping = LoaderBatches(loader, torch.device("cpu"), classes=data.classes, checked=False)
    assert len(list(skipping.epoch(0))) == 3


def test_classes_without_training_samples_are_allowed_where_they_are_named() -> None:
    data = data_from((IMAGES, LABELS * 2), test=(IMAGES, LABELS * 2), classes=list("abcde"))
    assert data.counts["train"] == (18, 0, 18, 0, 18)


def test_a_class_that_a_loader_never_shows_is_said() -> None:
    loader = own_loader(IMAGES, LABELS % 2)
    data = data_from(loader, test=HELD)
    batches = LoaderBatches(loader, torch.device("cpu"), classes=data.classes, expected=range(3))
    with pytest.warns(UserWarning, match="training has no sample of 2, and other splits have some"):
        assert len(list(batches.epoch(0))) == 3
    assert len(list(batches.epoch(1))) == 3


def test_a_plain_loader_of_bytes_is_normalised_by_its_items() -> None:
    data = data_from(DataLoader(TensorDataset(BYTES, LABELS), 20, shuffle=True), test=(BYTES, LABELS))
    images, _ = map(torch.cat, zip(*batches_of(data), strict=True))
    assert images.mean().abs() < 1e-5
    torch.testing.assert_close(images.std(correction=0), torch.tensor(1.0))


def test_what_random_transforms_show_is_the_same_every_time() -> None:
    noisy = Made(lambda k: ((COLOUR[k] * torch.rand(())).to(torch.uint8), k % K))
    first, second = (data_from(noisy, test=(COLOUR, LABELS), batch_size=20) for _ in range(2))
    assert (first.mean, first.std) == (second.mean, second.std)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        pytest.param((BYTES, LABELS), (BYTES[20:40], LABELS[20:40]), id="bytes"),
        pytest.param((IMAGES, LABELS), (IMAGES[20:40], LABELS[20:40]), id="floats"),
        pytest.param((IMAGES.flatten(1), LABELS), (IMAGES[20:40].flatten(1), LABELS[20:40]), id="table"),
        pytest.param(TensorDataset(IMAGES, LABELS), (IMAGES[20:40], LABELS[20:40]), id="Dataset"),
        pytest.param((BYTES[:12].repeat(5, 1, 1, 1), LABELS), None, id="repeated"),
    ],
)
def test_samples_that_are_trained_on_and_tested_are_said(train: Any, test: Any) -> None:
    count = 12 if test is None else 20
    kind = "samples" if not isinstance(train, Dataset) and train[0].ndim == 2 else "images"
    told = f"{count} of {count} test {kind} are training {kind} too, value by value"
    with pytest.warns(UserWarning, match=told):
        data_from(train, test=test, share=0, batch_size=20)


def test_rows_of_few_values_are_equal_by_chance() -> None:
    rows = torch.randint(2, (N, 3), generator=torch.Generator().manual_seed(0)).float()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(data_from((rows, LABELS)).test) == 12
