"""The Trifecta: three simple techniques for training deeper Forward-Forward networks.

Paper: Dooms, Tsang, Oramas 2023, arXiv 2311.18130.

Formula, at block k with goodness ``g_i = mean_square(activations_i)``:

    symmetric_loss = mean_i softplus(−alpha · (positive_i − negative_i)),  alpha = 4

1. *Symmetric loss*: true against wrong label of the same image, no threshold.
2. *Batch normalisation* at every block's input: later blocks keep what earlier ones found.
3. *Overlapping local updates*: windows of two blocks whose partition shifts by one each step; a
   loss reaches the weights of the block before its own and no further.

Compared with the authors' code (tdooms/trifecta): fourteen steps, every weight, running statistics and
the table of goodness agree (tests/reference_values). Departures, each with the setting that restores it:

- a weight has one Adam state, not one per objective that trains it (``ownership="objective"``; the label's
  pictures have one in both);
- a last block without a partner learns alone instead of idling (``trains_remainder=False``);
- the partition alternates across epochs, instead of starting anew in each (``restarts=True``);
- the learning rate decays from 0.003, not constant at 0.001 (``learning_rate=1e-3, decay="constant"``);
- bfloat16 or float32 in place of float16 without loss scaling.

Recipes ``published-*`` restore all of them but the last, with the code's batches, epochs, augmentation and
normalisation constants.
"""

from trifecta.losses import Symmetric
from trifecta.method import Method
from trifecta.schedules import OVERLAPPING


def method() -> Method:
    """Symmetric loss, batch normalisation and overlapping local updates."""
    return Method(
        name="trifecta",
        label_input="channel",
        objective=Symmetric(goodness="mean-square", alpha=4.0),
        schedule=OVERLAPPING,
    )
