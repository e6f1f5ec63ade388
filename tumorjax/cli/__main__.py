"""`python -m tumorjax.cli`: the command without an installed script."""

import sys

from tumorjax.cli.main import main

sys.exit(main())
