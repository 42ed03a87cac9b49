"""Settings of JAX that results depend on: set, recorded, compared.

Each can be changed by an environment variable, without a word: another
generator of random numbers, or 64-bit arithmetic, draws other samples from the
same seed. A run sets them all, writes them into its provenance, and refuses a
folder that was made under others.
"""

import jax

VALUES = {
  'jax_default_prng_impl': 'threefry2x32',
  'jax_threefry_partitionable': True,
  'jax_random_seed_offset': 0,
  'jax_enable_x64': False,
  'jax_numpy_dtype_promotion': 'standard',
  'jax_default_matmul_precision': None,
  'jax_default_dtype_bits': '64',
}


def fix() -> None:
  """Sets them, whatever the environment says."""
  for name, value in VALUES.items():
    if hasattr(jax.config, name):
      jax.config.update(name, value)


def recorded() -> dict[str, object]:
  """As they are now, for provenance."""
  return {
    name: getattr(value, 'value', value)  # some are enumerations
    for name in VALUES
    if (value := getattr(jax.config, name, jax)) is not jax
  }
