"""Measurements side by side with mlx-lm and llama.cpp: `python -m benchmarks`. docs/benchmarks.md explains them."""
