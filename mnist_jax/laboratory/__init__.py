"""Many runs: populations, sweeps, and runs that are repeated."""
