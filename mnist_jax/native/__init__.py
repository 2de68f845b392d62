"""The package's own kernel for CPUs: convolution, bias, rectifier and pooling in one pass."""
