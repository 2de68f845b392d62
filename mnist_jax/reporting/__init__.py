"""What reports are made of: what is measured, how networks are compared, and the pages."""
