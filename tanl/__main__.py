"""``python -m tanl`` is the ``tanl`` command."""

import sys

from .cli import main

sys.exit(main())
