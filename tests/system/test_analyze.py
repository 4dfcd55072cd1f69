"""python -m mdistiller_ext.analyze, from the command line."""

from __future__ import annotations
