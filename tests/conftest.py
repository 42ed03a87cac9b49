"""Strict settings for every test: 4 CPU devices, no silent broadcasting."""

import jax

from jaxdiff import mesh

mesh.use_cpu_devices(4)
jax.config.update('jax_numpy_rank_promotion', 'raise')
# Small programs run once or twice here: compile time is what costs.
jax.config.update('jax_disable_most_optimizations', True)
