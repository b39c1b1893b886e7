"""How fast the world writes: what the measure says, not how much."""

from labkit.bench.world import WorldBench, run


def test_speeds_are_of_text_written():
    result = run(WorldBench("tiny", documents=20, rounds=2))
    assert (result["size"], result["documents"]) == ("tiny", 20)
    assert result["document_kB_per_second"] > 0 and result["story_kB_per_second"] > 0
