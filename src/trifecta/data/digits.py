"""The digits that come with scikit-learn: real images without a download."""

import numpy as np
import torch

from trifecta.data.decode import resize
from trifecta.data.extras import pillow, require
from trifecta.data.images import ImageSet


def load_digits(image_size: tuple[int, int] | None) -> tuple[ImageSet, tuple[str, ...]]:
    """The 1,797 handwritten digits of 8×8 pixels, grey, with their 17 levels spread over 0..255.

    Args:
        image_size: (height, width) in pixels to resize to; None keeps 8×8.

    Returns:
        All images, in scikit-learn's order, and the names of the ten classes.

    Raises:
        ImportError: scikit-learn is not installed, or Pillow where it is needed to resize.

    """
    digits = require("sklearn.datasets").load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    if image_size is not None:
        image = pillow()
        pixels = np.stack([np.asarray(resize(image.fromarray(p), image_size)) for p in pixels])
    labels = torch.from_numpy(digits.target).long()
    return ImageSet(torch.from_numpy(pixels).unsqueeze(1), labels), tuple("0123456789")
