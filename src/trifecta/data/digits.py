"""The digits that come with scikit-learn: real images without a download."""

import math

import torch
import torch.nn.functional as F

from trifecta._utils.checks import require_memory
from trifecta._utils.extras import require
from trifecta.data.images import ImageSet

DIGITS = "digits"
DIGIT_CLASSES = tuple("0123456789")
TEST_FRACTION = 0.2
"""The test share of the digits, which have no official split."""


def load_digits(image_size: tuple[int, int] | None) -> ImageSet:
    """The 1,797 handwritten digits of 8×8 pixels, grey, with their 17 levels spread over 0..255.

    Args:
        image_size: (height, width) in pixels to resize to, bicubic and without aliasing; None
            keeps 8×8.

    Returns:
        All of them, in scikit-learn's order.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    digits = require("sklearn.datasets").load_digits()
    pixels = torch.from_numpy(digits.images).unsqueeze(1) * (255 / 16)
    if image_size is not None:
        # Resized in floating point.
        needed = 8.0 * len(pixels) * math.prod(image_size)
        require_memory(needed, "digits of that size", "use a smaller data.image_size")
        pixels = F.interpolate(pixels, image_size, mode="bicubic", antialias=True)
    images = pixels.round().clamp(0, 255).to(torch.uint8)
    return ImageSet(images, torch.from_numpy(digits.target).long())
