"""Inference in high dimension: message passing on matrices, tensors and linear models, and its state evolution."""
