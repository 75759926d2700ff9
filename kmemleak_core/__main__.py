"""Turns ``python -m kmemleak_core`` into the ``kmemleak`` command."""

import sys

from .cli import main

sys.exit(main())
