"""The loops and what hangs on them."""

from kerasrl_pg.training.on_policy import train_on_policy

__all__ = ["train_on_policy"]
