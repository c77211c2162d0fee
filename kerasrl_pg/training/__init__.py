"""The loops and what hangs on them."""

from kerasrl_pg.training.loop import train

__all__ = ["train"]
