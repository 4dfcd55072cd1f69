"""Knowledge distillation for vision models, in mdistiller's conventions.

``Distillation`` distils in a training loop of one's own; all else is imported from the submodules: ``mdistiller_ext.losses``,
``.distillers``, ``.models``, ``.config``, and so on. The package imports none of them, nor torch, before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .distillation import Distillation

__version__ = "0.1.0"

__all__ = ["Distillation", "__version__"]


def __getattr__(name: str) -> Any:
    """Import ``Distillation`` on first use."""
    if name != "Distillation":
        raise AttributeError(f"module 'mdistiller_ext' has no attribute '{name}'")
    from .distillation import Distillation

    return Distillation
