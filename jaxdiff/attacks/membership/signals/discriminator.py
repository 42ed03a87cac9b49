"""What a discriminator says of an image: that of a GAN, given with its weights.

With D the discriminator, larger for what looks real, G the generator, and y the
image's label:

(1)  discriminator  -D(x, y)  (LOGAN's white box, Hayes et al. 2019)
(2)  relativistic   mean_z D(G(z, y), y) - D(x, y)

A loss that pairs images fixes D up to a constant alone, another one for each
model and label: (2) takes it away. The z are the same for every image.
"""

from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd

from jaxdiff.attacks.membership.signals import base
from jaxdiff.runtime import prng


def _queries(name: str) -> pd.DataFrame:
  """One column, at no timestep."""
  return base.table([(name, 0, 0, 0, '', 1)])


def plain(adversary: base.Adversary, c: base.Settings) -> base.MeasureFn:
  """Equation (1)."""
  del c

  def measure(params, x0, cond, keys) -> jax.Array:
    del keys
    return -adversary.discriminate(params, x0, cond)[:, None]

  return measure


def relativistic(adversary: base.Adversary, c: base.Settings) -> base.MeasureFn:
  """Equation (2)."""
  root = prng.root(c.seed, 'fakes')

  def measure(params, x0, cond, keys) -> jax.Array:
    del keys

    def of_class(label: jax.Array) -> jax.Array:
      numbers = jnp.arange(c.fakes)
      z = prng.normal_each(
        prng.fold_each(jax.random.fold_in(root, label), numbers),
        (adversary.latent_size,),
      )
      labels = None if cond is None else jnp.full((c.fakes,), label)
      fakes = adversary.generate(params, z, labels)
      return adversary.discriminate(params, fakes, labels).mean()

    level = jax.lax.map(of_class, jnp.arange(max(adversary.num_classes, 1)))
    level = level[jnp.zeros(len(x0), int) if cond is None else cond]
    return (level - adversary.discriminate(params, x0, cond))[:, None]

  return measure


def _signal(name: str, make: Any, place: int) -> base.Signal:
  return base.Signal(
    queries=lambda c, params: _queries(name),
    make=lambda adversary, schedule, c: make(adversary, c),
    place=place,
    of=base.DISCRIMINATOR,
  )


SIGNALS = {
  'discriminator': _signal('discriminator', plain, 0),
  'relativistic': _signal('relativistic', relativistic, 1),
}
