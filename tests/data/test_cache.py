import os
import resource
import signal
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from trifecta.data import DataConfig, ImageData, ImageSet, cache, load_data
from trifecta.data import load as load_module
from trifecta.data.cache import CachedImages, Consume, cache_folder, cached_images
from trifecta.data.decode import GreyRange, Pixels, decode_pieces

from .helpers import grey, hub_source, png, write_classes, write_hub

# Classes of one image keep these tests small.
pytestmark = pytest.mark.filterwarnings("ignore:classes with a single training image")

IDENTITY: dict[str, object] = {"split": "f00", "column": "image", "image_size": None}


def load(folder: Path) -> ImageData:
    return load_data(DataConfig(source=str(folder), validation=0.0))


def pixels(count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, 1, 4, 5), generator=torch.Generator().manual_seed(0)).byte()


def decoder(images: Tensor, grey_range: GreyRange | None = None) -> Callable[[Consume], CachedImages]:
    """Hands out the images in two pieces."""

    def decode(consume: Consume) -> CachedImages:
        count, channels, height, width = images.shape
        pieces = (piece.numpy() for piece in torch.split(images, 2))
        return consume((count, channels, height, width), pieces, grey_range)

    return decode


def never(*_: object, **__: object) -> CachedImages:
    raise AssertionError("decoded again")


def cached(images: Tensor | None, **changes: object) -> Tensor:
    """The images through the cache; None where they have to be in it."""
    decode = never if images is None else decoder(images)
    return cached_images(IDENTITY | changes, decode).images


def entries() -> list[Path]:
    return sorted(cache_folder().iterdir())


def test_images_are_decoded_once() -> None:
    assert torch.equal(cached(pixels()), pixels())
    assert torch.equal(cached(None), pixels())


def test_what_decoding_warned_of_is_said_again() -> None:
    (file, page), pages = (Image.fromarray(grey(value)) for value in (9, 90)), BytesIO()
    file.save(pages, "TIFF", save_all=True, append_images=[page])

    def decode(consume: Consume) -> CachedImages:
        return decode_pieces(1, lambda: [("pages.tiff", pages.getvalue())], consume)

    for decodes in (decode, never):
        with pytest.warns(UserWarning, match="1 of 1 image .* several pages .*as pages.tiff") as heard:
            assert torch.equal(cached_images(IDENTITY, decodes).images[0, 0], torch.from_numpy(grey(9)))
        assert len(heard) == 1


@pytest.mark.parametrize("changed", [{"split": "f01"}, {"column": "img"}, {"image_size": (4, 5)}])
def test_other_images_have_another_entry(changed: dict[str, object]) -> None:
    cached(pixels())
    other = cached(pixels() // 2, **changed)
    assert torch.equal(other, pixels() // 2)
    assert len(entries()) == 2


@pytest.mark.parametrize("length", [0, 5, 70, 130, 190])
def test_a_truncated_entry_is_told_and_rewritten(length: int) -> None:
    cached(pixels())
    (file,) = entries()
    whole = file.read_bytes()
    assert len(whole) > length
    file.write_bytes(whole[:length])
    with pytest.warns(UserWarning, match=rf"{file.name} are damaged"):
        assert torch.equal(cached(pixels()), pixels())
    assert [entry.read_bytes() for entry in entries()] == [whole]


def test_a_flipped_bit_is_told_and_the_images_are_decoded_again() -> None:
    cached(pixels())
    (file,) = entries()
    whole = file.read_bytes()
    for position in range(0, len(whole), 7):
        content = bytearray(whole)
        content[position] ^= 1 << position % 8
        file.write_bytes(content)
        with pytest.warns(UserWarning, match="damaged"):
            assert torch.equal(cached(pixels()), pixels())
    assert torch.equal(cached(None), pixels())


def test_images_that_would_fill_memory_stay_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_OF_MEMORY", 0.0)
    kept = cached_images(IDENTITY, decoder(pixels()))
    assert kept.in_file
    assert torch.equal(kept.images, pixels())
    every = ImageSet(kept.images, torch.tensor([0, 1, 2]), rows=torch.arange(3))
    part = every.part(torch.tensor([2, 0])).part(torch.tensor([1]))
    assert part.images.data_ptr() == kept.images.data_ptr()
    assert torch.equal(part.select(torch.tensor([0])).images, pixels()[:1])
    assert [piece.labels.tolist() for piece in every.in_order(2)] == [[0, 1], [2]]
    assert torch.equal(torch.cat([piece.images for piece in every.in_order(2)]), pixels())


def test_a_folder_that_cannot_be_written_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRIFECTA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="cannot be written .*TRIFECTA_CACHE"):
        assert torch.equal(cached(pixels()), pixels())


def test_a_full_disk_leaves_no_half_written_file() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150, resource.RLIM_INFINITY))
        with pytest.warns(UserWarning, match="cannot be written .*too large"):
            assert torch.equal(cached(pixels()), pixels())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert entries() == []


def test_images_that_no_disk_holds_are_not_begun() -> None:
    def never_written(consume: Consume) -> CachedImages:
        return consume((3, 3, 2**30, 2**30), iter(()), None)

    warned = pytest.warns(UserWarning, match="cannot be written .*No space left")
    with warned, pytest.raises(ValueError, match=r"3 images of .* would take .* GiB"):
        cached_images(IDENTITY, never_written)


def test_an_entry_appears_whole() -> None:
    def pieces() -> Iterator[Pixels]:
        yield pixels().numpy()
        seen.append(len(list(cache_folder().glob("*.images"))))

    seen: list[int] = []
    cached_images(IDENTITY, lambda consume: consume((3, 1, 4, 5), pieces(), None))
    assert seen == [0]
    assert [entry.suffix for entry in entries()] == [".images"]


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIFECTA_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("TRIFECTA_CACHE")
    assert cache_folder() == tmp_path / "shared" / "trifecta"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "trifecta"


def write_many_times(folder: str) -> None:
    os.environ["TRIFECTA_CACHE"] = folder
    for _ in range(8):
        for file in cache_folder().glob("*.images"):
            file.unlink(missing_ok=True)
        assert torch.equal(cached(pixels()), pixels())


@pytest.mark.slow
def test_two_processes_may_write_one_entry() -> None:
    children = []
    for _ in range(2):
        if not (child := os.fork()):
            signal.alarm(60)
            try:
                write_many_times(str(cache_folder()))
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert [entry.suffix for entry in entries()] == [".images"]
    assert torch.equal(cached(None), pixels())


def test_a_source_has_one_entry_a_split_and_is_read_from_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(hub_source(folder))
    assert len(entries()) == 2
    monkeypatch.setattr(load_module, "decode_pieces", never)
    again = load(folder)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.images, again.test.images)


def test_another_size_is_another_entry(folder: Path) -> None:
    hub_source(folder)
    for size in ((2, 3), (3, 2)):
        config = DataConfig(source=str(folder), image_size=size)
        assert load_data(config).sample_shape == (1, *size)


def rewrite(file: Path, content: bytes) -> None:
    """Change a file as an editor does, at a later time than it had."""
    before = file.stat().st_mtime_ns
    file.write_bytes(content)
    os.utime(file, ns=(before + 10**9, before + 10**9))


def test_a_changed_parquet_file_is_read_anew(folder: Path, tmp_path: Path) -> None:
    load(hub_source(folder))
    images: list[bytes | None] = [png(grey(200 + k)) for k in range(8)]
    write_hub(tmp_path / "new", "train", images, {"label": [0, 1] * 4}, {"label": ["cat", "dog"]})
    name = "train-00000-of-00001.parquet"
    rewrite(folder / name, (tmp_path / "new" / name).read_bytes())
    assert load(folder).train.images[:, 0, 1, 1].tolist() == list(range(200, 208))


def test_a_changed_image_file_is_read_anew(folder: Path) -> None:
    for split in ("train", "test"):
        write_classes(folder / split, {"a": [grey(1)], "b": [grey(2)]})
    assert load(folder).train.images[:, 0, 1, 1].tolist() == [1, 2]
    rewrite(folder / "train" / "b" / "000.png", png(grey(77)))
    assert load(folder).train.images[:, 0, 1, 1].tolist() == [1, 77]


def test_added_and_removed_image_files_are_noticed(folder: Path) -> None:
    for split in ("train", "test"):
        write_classes(folder / split, {"a": [grey(1), grey(3)], "b": [grey(2)]})
    load(folder)
    write_classes(folder / "train", {"b": [grey(2), grey(4)]})
    (folder / "train" / "a" / "000.png").unlink()
    assert load(folder).train.images[:, 0, 1, 1].tolist() == [3, 2, 4]
