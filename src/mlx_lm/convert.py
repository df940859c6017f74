"""Where mlx-lm's users import conversion from; `python -m mlx_lm.convert` is the command."""

from .cli.convert import main
from .quant import convert

__all__ = ["convert", "main"]

if __name__ == "__main__":
    raise SystemExit(main())
