"""Augmentation of one image after another, pixel by pixel."""

import math

import torch
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


def resample(image: Tensor, angle: float, dy: int, dx: int, mirrored: bool) -> Tensor:
    """Each pixel is interpolated from where the turned, mirrored and shifted grid puts it."""
    _, height, width = image.shape
    image = image.double()
    result = torch.empty_like(image)
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    for row in range(height):
        for column in range(width):
            down, right = row - centre_y, column - centre_x
            right = -right if mirrored else right
            y = math.sin(angle) * right + math.cos(angle) * down + centre_y + dy
            x = math.cos(angle) * right - math.sin(angle) * down + centre_x + dx
            result[:, row, column] = bilinear(image, y, x)
    return result


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    top, left = math.floor(y), math.floor(x)
    total = torch.zeros_like(image[:, 0, 0])
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        total += (1 - abs(y - row)) * (1 - abs(x - column)) * pixel(image, row, column)
    return total


def cut_out(image: Tensor, y: int, x: int, side: int) -> Tensor:
    result = image.clone()
    for row in range(y - side // 2, y - side // 2 + side):
        for column in range(x - side // 2, x - side // 2 + side):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                result[:, row, column] = 0
    return result
