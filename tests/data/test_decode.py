"""One encoded image after another: modes, depths, orientation, size."""

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import AppendingTiffWriter

from trifecta.data import find_images, read_images
from trifecta.data.decode import Encoded, GreyRange

from .helpers import Pixels, colour, decode, grey, png


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def decoded(
    image: Image.Image, image_format: str = "PNG", grey_range: GreyRange | None = None, **options: Any
) -> Pixels:
    return decoded_bytes(encoded(image, image_format, **options), grey_range)


def decoded_bytes(content: bytes, grey_range: GreyRange | None = None) -> Pixels:
    """One image, (H, W, C)."""
    images = decode(("it", content), grey_range=grey_range)
    return np.moveaxis(images[0].numpy(), 0, -1)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 129, 257], [32768, 65534, 65535, 1000]], np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    for image_format in ("PNG", "TIFF"):
        image = decoded(Image.fromarray(values), image_format, GreyRange(0, 65535))
        assert np.array_equal(image[..., 0], expected)


def test_the_range_in_use_becomes_the_whole_range_and_the_rest_is_clipped() -> None:
    values = np.array([[900, 1000, 1001, 1500], [2000, 2019, 2020, 4095]], np.uint16)
    image = decoded(Image.fromarray(values), grey_range=GreyRange(1000, 2020))
    assert image[..., 0].tolist() == [[0, 0, 0, 125], [250, 255, 255, 255]]


def test_an_image_of_another_depth_than_its_set_is_refused(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((2, 2), 300, np.uint16))
    (tmp_path / "deep.png").write_bytes(encoded(deep))
    with pytest.raises(ValueError, match="images have greys of 16 bits, and the training images have 8"):
        read_images([tmp_path / "deep.png"], image_shape=(1, 2, 2))
    for image in (Image.fromarray(grey(9)), Image.fromarray(colour(9))):
        with pytest.raises(ValueError, match=r"it: it has 8 bits, and others .* have greys of 16"):
            decoded(image, grey_range=GreyRange(0, 4095))


def test_colours_that_use_the_lower_bits_alone_are_refused() -> None:
    """Pillow keeps the upper 8 of 16 bits a colour; it cannot write such an image either."""
    for top, is_read in ((0, True), (4095, False), (65535, True)):
        row = b"\0" + top.to_bytes(2, "big") * 3
        header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
        chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b"")]
        content = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
        if is_read:
            assert decoded_bytes(content).tolist() == [[[top >> 8] * 3]]
        else:
            with pytest.raises(ValueError, match="it uses only the lower of its 16 bits"):
                decoded_bytes(content)


def test_pixels_without_a_known_range() -> None:
    for values in (np.ones((2, 2), np.float32), np.full((2, 2), -1, np.int32)):
        with pytest.raises(ValueError, match="no known range: save it with 8 or 16 bits"):
            decoded(Image.fromarray(values), "TIFF", GreyRange(0, 65535))


def palette(*colours: int) -> Image.Image:
    """Two pixels of the first two colours."""
    image = Image.new("P", (len(colours) // 3, 1))
    image.putpalette(colours)
    image.putpixel((1, 0), 1)
    return image


def transparent(mode: str, *pixels: Any) -> Image.Image:
    image = Image.new(mode, (len(pixels), 1))
    for k, pixel in enumerate(pixels):
        image.putpixel((k, 0), pixel)
    return image


COLOURS = palette(10, 20, 30, 200, 100, 0)


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        pytest.param(Image.fromarray(grey(9)), {}, grey(9)[..., None], id="grey"),
        pytest.param(Image.fromarray(grey(0)).convert("1"), {}, grey(0)[..., None], id="black and white"),
        pytest.param(Image.fromarray(colour(9)), {}, colour(9), id="colour"),
        pytest.param(COLOURS, {}, [[[10, 20, 30], [200, 100, 0]]], id="palette of colours"),
        pytest.param(palette(10, 10, 10, 200, 200, 200), {}, [[[10], [200]]], id="palette of greys"),
        pytest.param(
            COLOURS, {"transparency": 1}, [[[10, 20, 30], [255, 255, 255]]], id="transparent palette entry"
        ),
        pytest.param(
            transparent("RGBA", (10, 20, 30, 255), (10, 20, 30, 0), (0, 0, 0, 51)),
            {},
            [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]],
            id="transparent colour over white",
        ),
        pytest.param(transparent("LA", (10, 255), (10, 0)), {}, [[[10], [255]]], id="transparent grey"),
        pytest.param(
            Image.new("CMYK", (1, 1), (255, 0, 0, 0)),
            {"image_format": "TIFF"},
            [[[0, 255, 255]]],
            id="inks",
        ),
        pytest.param(Image.new("RGB", (1, 1), (1, 2, 3)), {}, [[[1, 2, 3]]], id="one pixel"),
    ],
)
def test_all_modes_become_grey_or_colour(image: Image.Image, options: Any, expected: Any) -> None:
    assert np.array_equal(decoded(image, **options), expected)


@pytest.mark.parametrize("image_format", ["TIFF", "GIF", "WEBP", "PNG", "MPO"])
def test_the_first_of_several_pictures_counts_and_is_told_but_for_those_of_cameras(
    image_format: str,
) -> None:
    first, second = (Image.fromarray(colour(value, 8, 8)) for value in (9, 90))
    one = encoded(first, "JPEG" if image_format == "MPO" else image_format, lossless=True)
    several = encoded(first, image_format, lossless=True, save_all=True, append_images=[second])
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        images = decode(("one", one), ("many", several), ("more", several))
    assert images[1].equal(images[0])
    told = "2 of 3 image files have several pages or frames, as many: only the first is read; save each"
    assert [str(each.message)[: len(told)] for each in heard] == [told] * (image_format != "MPO")


def test_smaller_copies_in_a_file_are_no_pictures_of_their_own(tmp_path: Path) -> None:
    with AppendingTiffWriter(str(tmp_path / "it.tiff"), new=True) as opened:
        for size, options in ((8, {}), (4, {"tiffinfo": {254: 1}})):
            Image.fromarray(colour(9, size, size)).save(opened, "TIFF", **options)
            opened.newFrame()
    assert np.array_equal(decoded_bytes((tmp_path / "it.tiff").read_bytes()), colour(9, 8, 8))


def test_photographs_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decoded(Image.fromarray(grey(9, 4, 5)), exif=exif)
    assert np.array_equal(turned[..., 0], np.rot90(grey(9, 4, 5), -1))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_an_image_that_was_cut_short_is_named(image_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
    whole = encoded(Image.fromarray(noise), image_format)
    decoded_bytes(whole)
    with pytest.raises(ValueError, match="cannot read image it: "):
        decoded_bytes(whole[: len(whole) // 2])


def test_reduction_averages_instead_of_dropping_pixels() -> None:
    checks = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    small = decode(("it", png(checks)), image_size=(8, 6)).numpy()[0, 0]
    assert small.shape == (8, 6)
    assert np.abs(small[2:-2, 2:-2].astype(int) - 127).max() <= 3


def images(count: int, **changed: bytes) -> list[Encoded]:
    return [(f"number {k}", changed.get(f"at{k}", png(grey(k % 256)))) for k in range(count)]


def test_threads_keep_the_order() -> None:
    pixels = decode(*images(700))
    assert pixels[:, 0, 1, 1].tolist() == [k % 256 for k in range(700)]


def test_one_colour_image_makes_all_of_them_colour() -> None:
    pixels = decode(*images(600, at599=png(colour(7))))
    assert pixels.shape == (600, 3, 4, 5)
    assert torch.equal(pixels[300], torch.from_numpy(grey(44)).expand(3, -1, -1))
    assert torch.equal(pixels[599], torch.from_numpy(colour(7)).permute(2, 0, 1))


def test_files_are_found_below_a_folder_in_order(tmp_path: Path) -> None:
    wanted = [tmp_path / name for name in ("a.PNG", "b/c.jpeg", "b/d.png", "e.webp")]
    (tmp_path / "b").mkdir()
    for path in [*wanted, tmp_path / "notes.txt", tmp_path / "b" / ".hidden.png"]:
        path.touch()
    assert find_images(tmp_path) == wanted
    assert find_images(wanted[1]) == [wanted[1]]


def test_no_files_are_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no images in .*give an image"):
        find_images(tmp_path)
    with pytest.raises(ValueError, match=r"no file or folder .*none"):
        find_images(tmp_path / "none")


@pytest.mark.parametrize("channels", [1, 3])
def test_files_are_read_to_the_shape_of_the_network(tmp_path: Path, channels: int) -> None:
    paths = [tmp_path / "grey.png", tmp_path / "colour.png"]
    paths[0].write_bytes(png(grey(9)))
    paths[1].write_bytes(png(colour(9, 20, 30)))
    pixels = read_images(paths, image_shape=(channels, 4, 5))
    assert pixels.shape == (2, channels, 4, 5)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels[0], torch.from_numpy(grey(9)).expand(channels, -1, -1))
    luma = 0.299 * 9 + 0.587 * 4 + 0.114 * 246
    middle = pixels[1, :, 2, 2].tolist()
    assert middle == ([round(luma)] if channels == 1 else [9, 4, 246])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(png(grey(9))[:-25])
    for name in ("broken.png", "missing.png"):
        with pytest.raises(ValueError, match=f"cannot read image .*{name}"):
            read_images([tmp_path / name], image_shape=(1, 4, 5))


def test_a_shape_that_no_file_has(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the network takes 2"):
        read_images([tmp_path], image_shape=(2, 4, 5))
