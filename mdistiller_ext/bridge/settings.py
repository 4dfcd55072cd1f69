"""Settings of a checkout: its ``CFG`` as our group ``UPSTREAM``, its yaml files, and the ``cfg`` that its classes are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode

from ..config.reading import flatten
from ..config.schema import all_settings, declare_group
from ..config.upstream_tables import RENAMED
from ..distillers.base import ROLES
from ..errors import ConfigError, listing
from ..registry import DISTILLERS, TRAINERS
from ..settings import Setting
from .checkout import Checkout

PREFIX = "upstream/"
"""The beginning of the names of a checkout's methods"""

_GROUP = "UPSTREAM"
_STANDARD = ("EXPERIMENT", "DATASET", "DISTILLER", "SOLVER", "LOG")
# Settings of theirs about training, which config/upstream.py translates for every method.
_ABOUT_TRAINING = {*RENAMED, "SOLVER.LR_COS", "SOLVER.LR_POLICY", "DISTILLER.AUG_TEACHER", "DATASET.ENHANCE_AUGMENT"}
_SAME_TRAINERS = {"crd_dot": "dot", "deepkd_aug": "deepkd"}


class UpstreamSettings:
    """Settings of a checkout, declared as ``UPSTREAM.<their name>`` with their defaults.

    Declared are those of their methods (``UPSTREAM.CRD.LOSS.FEAT_WEIGHT``), and of EXPERIMENT, DATASET, DISTILLER and SOLVER
    those that are not settings here (``UPSTREAM.EXPERIMENT.LOGIT_STAND``). ``UPSTREAM.ROLES`` assigns losses to roles, such
    as ``[loss_inter=kd]``.
    """

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout
        here = all_settings()
        theirs = {
            name: list(value) if isinstance(value, tuple) else value for name, value in flatten(checkout.defaults).items()
        }
        self.declared = {
            name: Setting(value)
            for name, value in theirs.items()
            if not name.startswith("LOG.")
            and (name.split(".")[0] not in _STANDARD or (name not in here and name not in _ABOUT_TRAINING))
        }
        self.declared |= {"ROLES": Setting([], item=str), "SOLVER.TRAINER": Setting("")}
        declare_group(_GROUP, self.declared)

    def method(self, name: str) -> str:
        """The full name of a method: ``upstream/NAME`` for one that only the checkout has."""
        return f"{PREFIX}{name}" if name not in DISTILLERS and name in self.checkout.methods else name

    def dialect(self, settings: dict[str, Any], method: str) -> dict[str, Any]:
        """Settings of a yaml file or command line, those of the checkout's methods moved to UPSTREAM; see load_config.

        Nothing is moved where the method of the run is not the checkout's. Raises ConfigError for a trainer that is not here.
        """
        method = self.method(method)
        if not method.startswith(PREFIX):
            return settings
        moved: dict[str, Any] = {}
        for name, value in settings.items():
            if name == "DISTILLER.TYPE":
                moved[name] = method
            elif name == "SOLVER.TRAINER":
                moved[name] = self._trainer(str(value))
                moved.setdefault(f"{_GROUP}.{name}", str(value))
            elif name in self.declared:
                moved.setdefault(f"{_GROUP}.{name}", value)
            else:
                moved[name] = value  # also UPSTREAM.X, which counts before X
        if moved.get("SOLVER.TRAINER") == "deepkd" and "deepkd" in self.checkout.trainers:
            moved.setdefault("SOLVER.DEEPKD.RULE", "official")
        return moved

    def _trainer(self, name: str) -> str:
        """Our trainer that updates as theirs does.

        A trainer of theirs with BaseTrainer's optimizer differs from it in what it hands to ``forward_train``.
        """
        theirs = self.checkout.trainers
        if name in TRAINERS:
            return name
        if name in _SAME_TRAINERS:
            return _SAME_TRAINERS[name]
        if name in theirs and getattr(theirs[name], "init_optimizer", None) is getattr(theirs["base"], "init_optimizer", 0):
            return "base"
        raise ConfigError(f"SOLVER.TRAINER {name} of the checkout has an optimizer of its own: choose {listing(TRAINERS)}")

    def for_class(self, settings: Mapping[str, Any], method: str) -> CfgNode:
        """The ``cfg`` for the constructor of their method: their defaults, our settings of the same names, and UPSTREAM's."""
        cfg = self.checkout.defaults.clone()
        cfg.defrost()
        for name, default in flatten(self.checkout.defaults).items():
            value = settings.get(
                f"{_GROUP}.{name}", settings.get(name, default) if name.split(".")[0] in _STANDARD else default
            )
            *groups, leaf = name.split(".")
            node = cfg
            for group in groups:
                node = node[group]
            node[leaf] = tuple(value) if isinstance(default, tuple) else value
        cfg.DISTILLER.TYPE = method
        if not cfg.SOLVER.get("TRAINER", True):
            cfg.SOLVER.TRAINER = settings.get("SOLVER.TRAINER", "base")
        cfg.freeze()
        return cfg


def roles(pairs: list[str]) -> dict[str, str]:
    """Role of each loss that ``UPSTREAM.ROLES`` names. Raises ConfigError for what is not NAME=ROLE."""
    split = [pair.partition("=") for pair in pairs]
    for pair, (name, _, role) in zip(pairs, split, strict=True):
        if not name or role not in ROLES:
            raise ConfigError(f"UPSTREAM.ROLES: '{pair}' must be LOSS=ROLE, such as loss_kd=kd; ROLE one of {', '.join(ROLES)}")
    return {name: role for name, _, role in split}
