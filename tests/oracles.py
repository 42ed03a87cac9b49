"""Closed-form noise predictors: what an attack must find is known.

For images x_i and x_t = a x0 + s eps, the best predictor of eps has a closed
form under each of these beliefs about x0:

* memoriser: x0 is one of the training images (posterior mean over them);
* overfitter, generaliser: x0 ~ N(mu, Sigma) fitted to few or to all images:
  eps_hat = s (a^2 Sigma + s^2 I)^-1 (x_t - a mu).

Setting: linear betas 1e-4 .. 0.02, T = 1000, digits in [-1, 1]; members are
the first n of default_rng(0).permutation(1797), non-members the next n.
`tests/goldens/make_oracle_values.py` computes the pinned values in float64
NumPy.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.data import datasets
from jaxdiff.diffusion import processes, schedules

SCHEDULE = schedules.make('linear', 1000, 1e-4, 0.02)
PINNED = json.loads(
  (pathlib.Path(__file__).parent / 'goldens' / 'oracle_values.json').read_text()
)
# What the pinned values of other kinds of signal were made with.
KINDS = ('secmi', 'pia', 'pian', 'pfami', 'sima', 'rediffuse')
STRIDE, VARIATIONS = 10, 10
SIZES = {'memoriser': 400, 'overfitter': 100, 'generaliser': 400}


def split(n: int) -> tuple[np.ndarray, np.ndarray]:
  """Members and non-members, uint8 [n, 8, 8, 1] each."""
  images = datasets.digits().images
  order = np.random.default_rng(0).permutation(len(images))
  return images[order[:n]], images[order[n : 2 * n]]


def memoriser(images: np.ndarray | jax.Array) -> processes.EpsFn:
  """Posterior mean over float images [n, H, W, C] in [-1, 1]."""
  flat = jnp.asarray(images).reshape(len(images), -1)

  def eps_fn(x_t, t, cond):
    del cond
    x = x_t.reshape(len(x_t), -1)
    a = SCHEDULE.signal_scale(t)[:, None]
    s = SCHEDULE.noise_scale(t)[:, None]
    squared = jnp.square(x[:, None, :] - a[..., None] * flat[None]).sum(-1)
    x0_hat = jax.nn.softmax(-squared / (2.0 * s * s), axis=1) @ flat
    return ((x - a * x0_hat) / s).reshape(x_t.shape)

  return eps_fn


def gaussian(images: np.ndarray) -> processes.EpsFn:
  """Best predictor if x0 has the mean and covariance of `images`."""
  return gaussian_of(fitted(images))


def fitted(images: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Mean [D], and variances [D] along axes [D, D], of float images."""
  flat = images.reshape(len(images), -1).astype(np.float64)
  values, basis = np.linalg.eigh(np.cov(flat.T, bias=True))
  return (
    jnp.asarray(flat.mean(axis=0), jnp.float32),
    jnp.asarray(np.maximum(values, 0.0), jnp.float32),
    jnp.asarray(basis, jnp.float32),
  )


def gaussian_of(
  moments: tuple[jax.Array, jax.Array, jax.Array],
) -> processes.EpsFn:
  """As `gaussian`, of what `fitted` gave."""
  mean, values, basis = moments

  def eps_fn(x_t, t, cond):
    del cond
    a = SCHEDULE.signal_scale(t)[:, None]
    s = SCHEDULE.noise_scale(t)[:, None]
    centred = x_t.reshape(len(x_t), -1) - a * mean[None]
    spread = a * a * values[None] + s * s
    return (s * (centred @ basis / spread) @ basis.T).reshape(x_t.shape)

  return eps_fn


def make(name: str) -> processes.EpsFn:
  members, _ = split(SIZES[name])
  if name == 'memoriser':
    return memoriser(datasets.to_model_range(members))
  if name == 'generaliser':
    members = datasets.digits().images
  return gaussian(datasets.to_model_range(members))
