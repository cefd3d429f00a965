"""Long runs that look for what no example covers: `make soak`, or `python -m soak --minutes 10` in tests/."""
