"""Label inputs, and pairs made of images alone."""

from trifecta.inputs.image_pairs import IMAGE_PAIRS as IMAGE_PAIRS
from trifecta.inputs.image_pairs import ImagePairs as ImagePairs
from trifecta.inputs.label_inputs import LABEL_INPUTS as LABEL_INPUTS
from trifecta.inputs.label_inputs import LabelInput as LabelInput
