"""What a network gets right and wrong, image by image and class by class: the report of ``eval.py --report``."""

from .report import observe, write_report

__all__ = ["observe", "write_report"]
