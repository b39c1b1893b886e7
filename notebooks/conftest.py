"""What `pytest --nbmake notebooks` runs the notebooks with.

pyproject.toml keeps it out of the other tests, as it takes seconds to load in each
process.
"""

from nbmake.pytest_plugin import (
    pytest_addoption,
    pytest_collect_file,
    pytest_terminal_summary,
)

__all__ = ["pytest_addoption", "pytest_collect_file", "pytest_terminal_summary"]
