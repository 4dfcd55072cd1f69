"""Our methods in a checkout of mdistiller, and a comparison of its methods with ours::

cd ~/mdistiller && python -m mdistiller_ext.bridge . tools/train.py --cfg configs/cifar100/dkd/res32x4_res8x4.yaml \\
    DISTILLER.TYPE ext/DKD SOLVER.TRAINER deepkd
python -m mdistiller_ext.bridge compare ~/mdistiller --cfg ~/mdistiller/configs/cifar100/crd.yaml
python -m mdistiller_ext.bridge compare ~/mdistiller --all
"""

from __future__ import annotations

import sys

from ..command import as_started, run_command
from ..errors import ConfigError


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["compare"]:
        from .compare import main as compare

        compare(words[1:])
    elif words[:1] in ([], ["-h"], ["--help"]):
        print(as_started(__doc__))
    elif len(words) < 2:
        usage = as_started("python -m mdistiller_ext.bridge FOLDER SCRIPT [ARGUMENTS]")
        raise ConfigError(f"{usage}: the script is missing, tools/train.py")
    else:
        from .ours import run_script

        run_script(words[0], words[1], words[2:])


if __name__ == "__main__":
    run_command(main)
