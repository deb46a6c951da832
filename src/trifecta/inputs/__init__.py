"""Label inputs, and pairs made of images alone."""

from trifecta.inputs.image_pairs import IMAGE_PAIRS, ImagePairs
from trifecta.inputs.label_inputs import LABEL_INPUTS, LabelInput

__all__ = ["IMAGE_PAIRS", "LABEL_INPUTS", "ImagePairs", "LabelInput"]
