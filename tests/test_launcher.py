"""What a launcher's environment variables say."""

import pytest

from labkit.errors import LabError
from labkit.launcher import check_launcher_variables, launched_process_count, local_process_count


def test_processes_are_counted_by_the_launchers_variables(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (launched_process_count(), local_process_count()) == (1, 1)
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert (launched_process_count(), local_process_count()) == (16, 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert (launched_process_count(), local_process_count()) == (16, 8)


@pytest.mark.parametrize(
    ("name", "value", "lowest"),
    [
        *[(name, value, 1) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE") for value in ("two", "", "0", "-1", "--5")],
        *[(name, value, 0) for name in ("RANK", "LOCAL_RANK") for value in ("two", "-1", "--5")],
    ],
)
def test_a_variable_that_is_no_count_is_refused(name, value, lowest, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(LabError, match=f"^{name} is '{value}', not a whole number from {lowest}"):
        check_launcher_variables()


def test_counts_and_ranks_are_taken(monkeypatch):
    for name, value in (("WORLD_SIZE", "1"), ("LOCAL_WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    check_launcher_variables()
