"""Our ops against independent public implementations: same weights, same outputs and gradients."""
