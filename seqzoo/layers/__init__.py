"""Building blocks that architectures share. They know axis names, but no model, mesh or batch."""
