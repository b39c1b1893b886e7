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


def test_a_variable_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(LabError, match="WORLD_SIZE is 'two', not a number"):
        check_launcher_variables()
    assert launched_process_count() == 1
