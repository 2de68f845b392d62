"""What this computer has, and what is installed."""
