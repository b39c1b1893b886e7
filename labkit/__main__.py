"""``python -m labkit`` and ``accelerate launch -m labkit``: the same as the ``labkit`` command."""

import sys

from labkit.commands.main import main

sys.exit(main())
