"""`python -m mlx_lm.server`."""

import sys

from mlx_lm.cli.server import main

if __name__ == "__main__":
    sys.exit(main())
