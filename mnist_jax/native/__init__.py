"""The package's own kernel for CPUs: convolution, pooling, bias and rectifier in one pass."""
