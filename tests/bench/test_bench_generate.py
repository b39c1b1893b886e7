"""The bench of writing, on a shape that takes seconds and without the compiler."""

import pytest

from labkit import machine
from labkit.bench import generate as bench
from labkit.bench.train import ModelShape

TINY = ModelShape("tiny", width=32, depth=1, heads=1, key_value_heads=1, intermediate_size=32)


@pytest.mark.parametrize("batch,rivals", [(1, {"llama.cpp f16", "llama.cpp q8_0"}), (3, set())])
def test_every_side_writes_as_many_tokens(monkeypatch, batch, rivals):
    monkeypatch.setattr(machine, "has_compiler", lambda: False)
    config = bench.GenerateBench((TINY,), (batch,), ("greedy", "sampled"), prompt_tokens=4, new_tokens=6, rounds=1)
    report = bench.run(config)
    assert [timing["mode"] for timing in report["timings"]] == ["greedy", "sampled"]
    for timing in report["timings"]:
        speeds = timing["tokens_per_second"]
        assert {"ours fp32", "transformers fp32"} | rivals <= set(speeds) and min(speeds.values()) > 0
        best = [max(speed for name, speed in speeds.items() if name.startswith(side)) for side in ("ours", "transf")]
        assert timing["ratio"] == best[0] / best[1]
    assert bench.text_report(report).count("\n") == 2
