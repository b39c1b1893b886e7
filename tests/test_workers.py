"""The helper that tests of several processes wait with."""

import pytest

from tests.workers import finish, start


@pytest.mark.slow
def test_a_process_that_fails_is_reported_while_another_still_runs():
    """The first one would sleep for a minute: it is not waited for."""
    started = [*start("tests.sleeping", ["60"], 1), *start("tests.sleeping", ["no number"], 1)]
    with pytest.raises(AssertionError, match="no number"):
        finish(started, timeout=300)
    started[0].communicate()
    assert started[0].returncode not in (0, None)  # killed
