"""Whole training loops against those of other packages."""
