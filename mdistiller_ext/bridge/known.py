"""Deliberate differences from upstream's methods, and the settings that give upstream's way."""

from __future__ import annotations

from typing import NamedTuple


class Known(NamedTuple):
    """A deliberate difference.

    Attributes:
        text: what differs.
        settings: overrides with which ours computes what upstream does.
        probe_in_eval: whether upstream's agrees once its constructor probes networks in eval mode.
    """

    text: str
    settings: tuple[str, ...] = ()
    probe_in_eval: bool = False


_PROBE = "upstream's probe of shapes changes the batch norm statistics of teacher and student"
_DEEPKD = "upstream's release has another momentum and weight decay than the paper"
_OFFICIAL = ("SOLVER.DEEPKD.RULE", "official")

_BY_METHOD = {
    "FITNET": Known(_PROBE, probe_in_eval=True),
    "VID": Known(f"variances are trained; {_PROBE}", ("VID.RULE", "mdistiller"), probe_in_eval=True),
    "KDSVD": Known("singular vectors over channels", ("KDSVD.RULE", "mdistiller")),
    "OFD": Known("the teacher stays in eval mode; upstream rounds the margins to float32", ("OFD.TEACHER_MODE", "train")),
    "CRD": Known("negatives are drawn with replacement, on the device; here both have the same"),
}
_BY_TRAINER = {
    ("KD", "deepkd"): Known(f"{_DEEPKD}; its KD is a product of means", (*_OFFICIAL, "KD.RULE", "official")),
    ("DKD", "deepkd"): Known(_DEEPKD, _OFFICIAL),
    ("MLKD", "deepkd"): Known(_DEEPKD, (*_OFFICIAL, "MLKD.RULE", "deepkd")),
    ("CRLD", "deepkd"): Known(_DEEPKD, (*_OFFICIAL, "CRLD.RULE", "deepkd")),
}


def known_difference(method: str, trainer: str) -> Known | None:
    """The deliberate difference of a method with a trainer of ours, if there is one."""
    return _BY_TRAINER.get((method, trainer), _BY_METHOD.get(method))
