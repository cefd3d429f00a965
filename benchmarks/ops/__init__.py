"""One file an op: `bench_<op>.py` with its `cases(device)`."""
