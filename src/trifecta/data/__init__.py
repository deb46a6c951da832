"""Images from folders, the Hub, named sources or Python, as augmented batches on the device."""

from trifecta.data.augment import AUGMENTATIONS as AUGMENTATIONS
from trifecta.data.augment import Augmentation as Augmentation
from trifecta.data.augment import augment as augment
from trifecta.data.augment import normalize as normalize
from trifecta.data.batches import Batches as Batches
from trifecta.data.batches import ReceivedBatches as ReceivedBatches
from trifecta.data.batches import evaluation_batches as evaluation_batches
from trifecta.data.decode import read_images as read_images
from trifecta.data.folder import find_images as find_images
from trifecta.data.given import Given as Given
from trifecta.data.given import LoaderBatches as LoaderBatches
from trifecta.data.given import data_from as data_from
from trifecta.data.given import require_finite_samples as require_finite_samples
from trifecta.data.given import samples_of as samples_of
from trifecta.data.images import ChannelStatistics as ChannelStatistics
from trifecta.data.images import ImageData as ImageData
from trifecta.data.images import ImageSet as ImageSet
from trifecta.data.images import stratified_split as stratified_split
from trifecta.data.load import PUBLISHED_STATISTICS as PUBLISHED_STATISTICS
from trifecta.data.load import SOURCES as SOURCES
from trifecta.data.load import DataConfig as DataConfig
from trifecta.data.load import MissingSourceError as MissingSourceError
from trifecta.data.load import is_same_training as is_same_training
from trifecta.data.load import load_data as load_data
from trifecta.data.load import load_split as load_split
from trifecta.data.rows import is_same_rows as is_same_rows
