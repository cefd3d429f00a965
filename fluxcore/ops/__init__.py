"""The ops, one module each: check, `torch.library` op, gradient, public function."""
