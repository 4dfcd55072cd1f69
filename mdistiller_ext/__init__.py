"""Knowledge distillation for vision models, in mdistiller's conventions.

Import from the submodules: ``mdistiller_ext.losses``, ``.distillers``, ``.models``, ``.config``, and so on. This package
itself imports none of them, nor torch.
"""

__version__ = "0.1.0"
