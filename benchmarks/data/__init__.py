"""The loader against other loaders: `python -m benchmarks.data`, which writes everything it reads itself."""
