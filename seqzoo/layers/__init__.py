"""Building blocks that several architectures share. They know axis names, and no model, mesh or batch."""
