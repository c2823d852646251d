"""``python -m tanl`` is the ``tanl`` command."""

import sys

from .cli.main import main

sys.exit(main())
