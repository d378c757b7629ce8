"""seqzoo: sequence models in JAX and Flax, trained on TPU, GPU and CPU."""

__version__ = '0.1.0'
