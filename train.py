"""Train a student: the program ``mdistiller_ext/train.py`` of this checkout."""

from mdistiller_ext.command import run_command
from mdistiller_ext.train import main

if __name__ == "__main__":
    run_command(main)
