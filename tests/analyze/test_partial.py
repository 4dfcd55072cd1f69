"""Values computed so far."""

from __future__ import annotations

from pathlib import Path

from mdistiller_ext.analyze.partial import Partial


def test_values_are_computed_once_also_after_a_kill_within_a_line(tmp_path: Path) -> None:
    file, calls = tmp_path / "deep" / "x.jsonl", []

    def compute(value: float) -> dict[str, float]:
        calls.append(value)
        return {"loss": value}

    first = Partial(file)
    assert first.get(["a", 1], lambda: compute(0.1)) == first.get(["a", 1], lambda: compute(9)) == {"loss": 0.1}
    first.get(["a", 2], lambda: compute(0.2))
    file.write_text(file.read_text()[:-5])
    again = Partial(file)
    assert again.get(["a", 1], lambda: compute(9)) == {"loss": 0.1}
    assert again.get(["a", 2], lambda: compute(0.3)) == {"loss": 0.3}
    assert Partial(file).get(["a", 2], lambda: compute(9)) == {"loss": 0.3}
    assert calls == [0.1, 0.2, 0.3]
