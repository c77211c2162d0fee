"""Environments: where experience comes from."""
