"""Evaluate a network: the program ``mdistiller_ext/eval.py`` of this checkout."""

from mdistiller_ext.command import run_command
from mdistiller_ext.eval import main

if __name__ == "__main__":
    run_command(main)
