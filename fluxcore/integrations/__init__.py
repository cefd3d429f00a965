"""fluxcore inside other libraries."""
