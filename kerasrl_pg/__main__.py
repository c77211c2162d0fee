"""`python -m kerasrl_pg`: the command line."""

import sys

from kerasrl_pg.cli import main

if __name__ == "__main__":
    sys.exit(main())
