"""Experiments over several seeds, one file each, that the README's tables come from."""
