"""Small pictures that stand in a page as data."""

import base64
import io

import torch
from torch import Tensor

from trifecta._utils.extras import pillow


def picture_png(image: Tensor) -> str:
    """An image (C, H, W) of 1 or 3 channels, bytes or floats of any range, as a data URI."""
    if image.is_floating_point():
        low, high = image.amin(), image.amax()
        image = ((image - low) / (high - low).clamp(min=1e-12) * 255).to(torch.uint8)
    pixels = image.movedim(0, -1).numpy()
    return _encoded(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def map_png(shares: Tensor) -> str:
    """A map (H, W) of shares 0 … 1, dark to bright, as a data URI."""
    from matplotlib import colormaps

    return _encoded((colormaps["magma"](shares.numpy())[:, :, :3] * 255).astype("uint8"))


def _encoded(pixels: object) -> str:
    text = io.BytesIO()
    pillow().fromarray(pixels).save(text, format="png")
    return "data:image/png;base64," + base64.b64encode(text.getvalue()).decode()
