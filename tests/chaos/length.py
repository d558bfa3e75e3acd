"""How much of the fault tests is played: a quick part in `make test`, all of it in `make chaos`."""

import os

IS_FULL = os.environ.get("TENSORPOOL_CHAOS_FULL") == "1"
