"""Step time and memory of every method at the exact shapes of real models, on one GPU: `python -m benchmarks.gpu`."""
