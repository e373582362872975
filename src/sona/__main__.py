"""`python -m sona` is the `sona` command."""

import sys

from sona.cli import main

sys.exit(main())
