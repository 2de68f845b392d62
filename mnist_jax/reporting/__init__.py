"""Reports: measurements, comparisons, figures and pages."""
