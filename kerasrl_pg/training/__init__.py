"""The loops and what hangs on them."""
