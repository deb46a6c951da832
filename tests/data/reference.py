"""Augmentation of one image after another, pixel by pixel or by Pillow."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def pixel(image: Tensor, y: int, x: int) -> Tensor:
    """All channels at (y, x); black outside."""
    _, height, width = image.shape
    inside = 0 <= y < height and 0 <= x < width
    return image[:, y, x] if inside else torch.zeros_like(image[:, 0, 0])


def crop(image: Tensor, dy: int, dx: int) -> Tensor:
    result = torch.empty_like(image)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            result[:, y, x] = pixel(image, y + dy, x + dx)
    return result


def flip(image: Tensor) -> Tensor:
    result = torch.empty_like(image)
    for x in range(image.shape[2]):
        result[:, :, x] = image[:, :, image.shape[2] - 1 - x]
    return result


def rotate(image: Tensor, degrees: float) -> Tensor:
    """Pillow's rotation of a grey or an RGB image, as torchvision applies it to one."""
    pixels = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
    turned = Image.fromarray(pixels).rotate(degrees, Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(turned)).view(*image.shape[1:], -1).permute(2, 0, 1)


def cut_out(image: Tensor, y: int, x: int, side: int) -> Tensor:
    result = image.clone()
    for row in range(y - side // 2, y - side // 2 + side):
        for column in range(x - side // 2, x - side // 2 + side):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                result[:, row, column] = 0
    return result
