"""Finding and importing a checkout, and what its code needs."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mdistiller_ext.bridge.checkout import find_checkout, load_checkout
from mdistiller_ext.bridge.compatibility import missing_packages, without_cuda
from mdistiller_ext.errors import ConfigError, MissingFileError
from tests.support.upstream_package import write_upstream


def test_a_checkout_is_found_from_its_root_its_package_and_the_folder_above(checkout: Path) -> None:
    assert find_checkout(checkout) == checkout
    assert find_checkout(checkout / "mdistiller") == checkout
    assert find_checkout(checkout.parent) == checkout


def test_a_folder_with_several_checkouts_names_them(checkout: Path) -> None:
    write_upstream(checkout.parent / "second")
    with pytest.raises(ConfigError, match=r"several checkouts \(fork, second\): name one of them"):
        find_checkout(checkout.parent)


def test_a_folder_that_is_no_checkout_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"there is no mdistiller/distillers/__init__\.py in it"):
        find_checkout(tmp_path)
    with pytest.raises(MissingFileError, match="is not a folder"):
        find_checkout(tmp_path / "absent")


def test_its_dictionaries_and_sources_are_read(checkout: Path) -> None:
    loaded = load_checkout(checkout)
    assert list(loaded.methods) == ["NONE", "KD", "MYFORK", "MEMORY", "VIEWS"]
    assert list(loaded.trainers) == ["base"]
    assert loaded.defaults.MYFORK.WEIGHT == 0.5
    assert loaded.sources["distillers_fork.py"] == (checkout / "mdistiller/distillers/fork.py").read_bytes()
    assert "engine_cfg.py" in loaded.sources
    assert load_checkout(checkout).methods is loaded.methods


def test_a_package_without_init_is_imported(checkout: Path) -> None:
    (checkout / "mdistiller" / "__init__.py").unlink()
    assert "KD" in load_checkout(checkout).methods


def test_a_process_imports_one_checkout(checkout: Path) -> None:
    load_checkout(checkout)
    other = write_upstream(checkout.parent / "other")
    with pytest.raises(ConfigError, match="one checkout per process"):
        load_checkout(other)


def test_code_that_cannot_be_imported_is_named_by_file_and_line(tmp_path: Path, new_process: None) -> None:
    fork = write_upstream(tmp_path / "fork", kd="import no_such_package\n")
    with pytest.raises(
        ConfigError, match=r"No module named 'no_such_package' \(.*kd\.py, line 1\); install what .*requirements"
    ):
        load_checkout(fork)


def test_a_package_without_the_dictionary_is_no_checkout(tmp_path: Path, new_process: None) -> None:
    fork = write_upstream(tmp_path / "fork", __init__="")
    with pytest.raises(ConfigError, match=r"mdistiller\.distillers has no distiller_dict"):
        load_checkout(fork)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_calls_do_nothing_within_the_context_and_fail_again_after_it() -> None:
    tensor, layer = torch.ones(1), nn.Linear(1, 1)
    with without_cuda():
        assert tensor.cuda(non_blocking=True) is tensor
        assert layer.cuda() is layer
    with pytest.raises((RuntimeError, AssertionError)):
        tensor.cuda()


def test_stand_ins_for_missing_packages_are_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "turtle", None)  # an import of it fails
    for name in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    monkeypatch.delitem(sys.modules, "turtle")
    monkeypatch.delitem(sys.modules, "scipy.stats")
    monkeypatch.setattr("importlib.import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with missing_packages():
        from scipy.stats import norm  # type: ignore[import-not-found,unused-ignore]

        assert norm.cdf(1.0) == pytest.approx((1 + math.erf(1 / math.sqrt(2))) / 2, abs=1e-15)
        import turtle

        assert hasattr(turtle, "st")
    assert "scipy.stats" not in sys.modules
    assert "turtle" not in sys.modules
