"""Axis names, meshes, the one step compiled for a mesh, and randomness that ignores the mesh."""
