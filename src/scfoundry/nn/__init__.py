"""Torch building blocks used by two or more models: tensors in, tensors out."""
