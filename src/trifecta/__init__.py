"""Train neural networks without end-to-end backpropagation.

The Forward-Forward family and its rivals as points on common axes: how a label enters, goodness, loss,
normalisation, schedule, read-out. Start with :func:`train` and :class:`RunConfig`, or with
:func:`build_network` and :class:`Learner` in a loop of your own.
"""

import lazy_loader

__version__ = "0.1.0"

# Names are imported when they are asked for, so that a help text needs no PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
