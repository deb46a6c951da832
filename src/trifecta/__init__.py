"""Train neural networks without end-to-end backpropagation.

The Forward-Forward family and its rivals as points on common axes: how a label enters, goodness, loss,
normalisation, schedule, read-out. Start with :func:`train` and :class:`RunConfig`, or with
:func:`build_network` and :class:`Learner` in a loop of your own.
"""

from pathlib import Path as _Path

import lazy_loader as _lazy_loader

__version__ = "0.1.0"

# Names are imported when they are asked for, so that a help text needs no PyTorch.
__getattr__, __dir__, _names = _lazy_loader.attach_stub(__name__, __file__)
# Modules are no part of ``import *``, which would replace a reader's own ``nn``.
__all__ = sorted({*_names}.difference(file.stem for file in _Path(__file__).parent.iterdir()))
