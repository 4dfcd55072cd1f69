"""Names filled by decorator: taken names, unknown names, and entries that are imported when first asked for."""

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from mdistiller_ext.errors import ConfigError, UnknownNameError
from mdistiller_ext.registry import Registry
from tests.support.programs import ROOT


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder with two modules that register an entry each, one of them slowly."""
    folder = tmp_path / "zoo_of_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for name, pause in (("a", 0.0), ("b", 0.3)):
        (folder / f"{name}.py").write_text(
            textwrap.dedent(f"""
                import time
                from test_registry_target import REGISTRY
                time.sleep({pause})

                @REGISTRY.register("{name}")
                def entry(): ...
            """)
        )
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("animal", "zoo_of_test")
    target = type(sys)("test_registry_target")
    target.REGISTRY = registry
    monkeypatch.setitem(sys.modules, "test_registry_target", target)
    yield registry
    for module in [m for m in sys.modules if m.startswith("zoo_of_test")]:
        del sys.modules[module]


def test_the_folder_is_imported_when_first_asked(package):
    assert list(package) == ["a", "b"]
    assert "b" in package


def test_threads_that_ask_at_once_all_see_every_entry(package):
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda _: list(package), range(4)))
    assert names == [["a", "b"]] * 4


def test_a_module_that_fails_fails_each_time(package, tmp_path):
    (tmp_path / "zoo_of_test" / "c.py").write_text("raise RuntimeError('broken method')")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken method"):
            package.get("a")


def test_an_unknown_name_is_answered_with_the_nearest(package):
    with pytest.raises(UnknownNameError, match=r"unknown animal 'B'; did you mean 'b'\? Known: a, b"):
        package.get("B")


def test_a_name_can_be_taken_once(package):
    list(package)
    said = r"animal 'a' is already registered by zoo_of_test\.a\.entry \(built in\); choose another name for .*lambda"
    with pytest.raises(ConfigError, match=said):
        package.register("a")(lambda: None)


def test_a_built_in_name_is_known_to_be_taken_before_anyone_has_asked(package):
    with pytest.raises(
        ConfigError, match=r"by zoo_of_test\.a\.entry \(built in\); choose another name for tests\.test_registry\."
    ):
        package.register("a")(lambda: None)
    assert list(package) == ["a", "b"]


DEFINITION = '@registry.register("x")\nclass Mine: ...\n'


def test_two_classes_of_one_name_in_a_file_are_not_one(package):
    with pytest.raises(
        ConfigError, match=r"animal 'x' is registered twice in mine\.py, lines [12] and [34]; choose another name"
    ):
        exec(compile(DEFINITION * 2, "mine.py", "exec"), {"registry": package, "__name__": "mine"})


def test_a_cell_or_module_that_is_run_again_replaces_its_entry(package):
    namespace = {"registry": package, "__name__": "__main__"}
    for lines in ("", "\n"):  # edited in between
        exec(compile(lines + DEFINITION, "cell", "exec"), namespace)
        assert package.get("x") is namespace["Mine"]


def test_names_are_read_from_the_source_without_an_import(package):
    assert package.names() == ["a", "b"]
    assert "zoo_of_test.a" not in sys.modules
    package.register("own")(lambda: None)
    assert package.names() == ["a", "b", "own"]


def test_the_names_in_the_source_are_those_registered():
    code = """if True:
        import sys
        from mdistiller_ext.registry import DATASETS, DISTILLERS, MODELS, TRAINERS
        named = {registry: registry.names() for registry in (DATASETS, DISTILLERS, MODELS, TRAINERS)}
        assert "torch" not in sys.modules
        from mdistiller_ext.analyze.analysis import ANALYSES  # imports torch, but no analysis
        named[ANALYSES] = ANALYSES.names()
        print([registry.kind for registry, names in named.items() if not names or names != list(registry)])
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
