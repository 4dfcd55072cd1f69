"""mdistiller_ext: knowledge distillation for vision models, in mdistiller's conventions.

Import what you need from the rooms: ``mdistiller_ext.losses``, ``.distillers``, ``.models``, ``.config`` ...
Nothing heavy is imported here.
"""

__version__ = "0.1.0"
