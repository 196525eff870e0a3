"""Networks whose Lipschitz constant is known."""
