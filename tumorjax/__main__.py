"""Run the command by `python -m tumorjax`."""

import sys

from tumorjax.cli import main

sys.exit(main())
