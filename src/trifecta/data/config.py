"""Which images to use, and how they are split and sized."""

from collections.abc import Sequence
from dataclasses import dataclass

from trifecta.data.images import ChannelStatistics, ImageSet, channel_statistics


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Source, splits and size of the images. Every field is a plain value, or a list of them in YAML.

    Attributes:
        source: a local folder (one folder of images per class, or Parquet files), a Hugging Face
            Hub id, or ``digits``, the 8×8 digits that come with scikit-learn (a folder of that
            name is ``./digits``).
        subset: the configuration of a data set that has several, such as ``cropped_digits``.
        image_column: where the images are; None finds the column by its type.
        label_column: where the labels are; None finds the column by its type.
        table: file with the labels of a folder of images, such as ``labels.csv``: a column ``file_name``
            (or ``id``) and one of labels; None takes a sub-folder for a class, and looks for a table where
            there are fewer than two.
        train_split: the split to train on.
        test_split: the split to test on. A folder's splits are ``train``, ``validation`` (``val``,
            ``valid``, ``dev``) and ``test``, in any case.
        hold_out: the fraction of the training split to hold out as the test split, stratified and
            with seed 0, for a source that has no test split.
        image_size: (height, width) in pixels to resize every image to; None keeps their size.
        validation: the fraction of the training split to validate on, stratified and with seed 0, for a
            source without a split ``validation``; 0 trains on all of it and validates on nothing.
        mean: to normalise each channel by, in 0..1; None takes that of the training images.
        std: standard deviation to normalise each channel by, above 0 and up to 1; None, as ``mean``
            is, takes that of the training images.
        skip_unreadable: whether images that cannot be read are left out, with a warning that counts them.

    Raises:
        ValueError: a value is out of its range.
    """

    source: str
    subset: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    table: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    hold_out: float | None = None
    image_size: tuple[int, int] | None = None
    validation: float = 0.1
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("data.source is empty: give a folder, a Hub id or 'digits'")
        if self.train_split == self.test_split:
            raise ValueError(
                f"training and test split must differ, got '{self.test_split}' for both: "
                "choose another data.test_split, or data.hold_out=0.2"
            )
        if not 0 <= self.validation < 1:
            raise ValueError(
                f"data.validation is a fraction of the training images, 0 or more and below 1, "
                f"got {self.validation}: try 0.1"
            )
        if self.hold_out is not None and not 0 < self.hold_out < 1:
            raise ValueError(
                f"data.hold_out is a fraction of the training images, above 0 and below 1, "
                f"got {self.hold_out}: try 0.2"
            )
        if self.image_size is not None:
            _check_size(self.image_size)
            # YAML has lists only; equal configurations must stay equal. So below.
            object.__setattr__(self, "image_size", tuple(self.image_size))
        if self.mean is not None or self.std is not None:
            mean, std = _checked_constants(self.mean, self.std)
            object.__setattr__(self, "mean", mean)
            object.__setattr__(self, "std", std)


def _check_size(size: tuple[int, ...]) -> None:
    whole = all(isinstance(side, int) and side >= 1 for side in size)
    if len(size) != 2 or not whole:
        raise ValueError(
            f"data.image_size is a height and a width of at least 1 pixel, got {tuple(size)}: try 32 by 32"
        )


def _checked_constants(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if mean is None or std is None:
        raise ValueError(
            f"mean and std go together, got {'std' if mean is None else 'mean'} alone: give both, or "
            "neither to take those of the training images"
        )
    if not mean or len(mean) != len(std):
        raise ValueError(
            f"mean and std have one value per channel, got {len(mean)} and {len(std)}: give as many of both"
        )
    if not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
        raise ValueError(
            f"each mean is in 0 to 1 and each std above 0 and up to 1, got mean {tuple(mean)} and std "
            f"{tuple(std)}: divide grey levels by 255, or try 0.5 for each"
        )
    return tuple(map(float, mean)), tuple(map(float, std))


PUBLISHED_STATISTICS: dict[str, ChannelStatistics] = {
    "mnist": ChannelStatistics(mean=(0.1307,), std=(0.3081,)),
    "fashion-mnist": ChannelStatistics(mean=(0.2860,), std=(0.3530,)),
    "svhn": ChannelStatistics(mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970)),
    "cifar10": ChannelStatistics(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
}
"""Constants by data set: those of the published code of Dooms et al. (2023), the Trifecta.

They are given to a ``DataConfig``. Not all are those of the training images: CIFAR-10's deviations
are smaller than the images' own 0.247, 0.243 and 0.262.
"""


def find_statistics(config: DataConfig, images: ImageSet) -> ChannelStatistics:
    """Return the constants that ``config`` fixes, or else those of the training images.

    Args:
        config: of the source.
        images: uint8, to train on.

    Raises:
        ValueError: the configuration fixes constants for another number of channels.
    """
    if config.mean is None or config.std is None:
        return channel_statistics(images)
    given, channels = len(config.mean), images.images.shape[1]
    if given != channels:
        raise ValueError(
            f"mean and std have one value per channel, got {given} for images of {channels}: give "
            f"{channels}, or leave both out to take those of the training images"
        )
    return ChannelStatistics(config.mean, config.std)
