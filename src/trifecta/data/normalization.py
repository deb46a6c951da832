"""Means and standard deviations that images are normalised by."""

from trifecta.data.config import DataConfig
from trifecta.data.images import ChannelStatistics, ImageSet, channel_statistics

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
