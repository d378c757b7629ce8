"""Parameters, floating-point operations and pictures."""
