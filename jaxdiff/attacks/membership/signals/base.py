"""What signals share: their settings and columns, noise, steps of DDIM."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd

from jaxdiff.diffusion import processes, schedules
from jaxdiff.runtime import prng

# From a noise predictor: (x0 [B, H, W, C], cond, keys [B]) -> float32 [B, Q].
SignalFn = Callable[[jax.Array, Any, jax.Array], jax.Array]
# The same with the weights before it: (params, x0, cond, keys) -> [B, Q].
MeasureFn = Callable[[Any, jax.Array, Any, jax.Array], jax.Array]
EpsFnOf = Callable[[Any], processes.EpsFn]

# What a signal may be asked of.
NOISE_PREDICTOR, DISCRIMINATOR = 'noise predictor', 'discriminator'


@dataclasses.dataclass(frozen=True)
class Adversary:
  """Both nets of GANs.

  Attributes:
    generate: (params, z [B, latent_size], labels) -> x0 [B, H, W, C].
    discriminate: (params, x0, labels) -> float32 [B], larger for what looks
      real.
    latent_size: numbers that an image is made from.
    num_classes: labels; 0 where there are none.
  """

  generate: Callable[[Any, jax.Array, Any], jax.Array]
  discriminate: Callable[[Any, jax.Array, Any], jax.Array]
  latent_size: int
  num_classes: int


COLUMNS = ('name', 't', 'draw', 'flip', 'layer', 'cost')


@dataclasses.dataclass(frozen=True)
class Settings:
  """What signals leave to the config.

  Attributes:
    timesteps: grid of 0-based timesteps, rising.
    draws: noise draws of the loss at each.
    flip: measure the loss of the mirror image too.
    stride: k of SecMI.
    variations: n of ReDiffuse.
    variation_stride: k of ReDiffuse.
    fakes: generated images a class.
    seed: of them.
  """

  timesteps: tuple[int, ...] = (0,)
  draws: int = 1
  flip: bool = False
  stride: int = 10
  variations: int = 10
  variation_stride: int = 50
  fakes: int = 256
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Signal:
  """One signal.

  Attributes:
    queries: (settings, params of one model or their shapes) -> its columns.
    make: (eps_fn_of, schedule, settings) -> MeasureFn of these columns; of a
      discriminator, (adversary, None, settings).
    place: among the signals of a table; those without one come last.
    stride: the setting that its timesteps must be multiples of; '' is none.
    published: has its authors' settings, whatever those of the run are.
    num_timesteps: that the schedule must have; 0 takes any.
    learned: its columns are features for a classifier, not one score each.
    captions: conditions are texts, with shortened ones among them.
    of: NOISE_PREDICTOR or DISCRIMINATOR.
    score: (signals [K, N, C], keep, left_out) -> [K, N, C'], larger for
      members, where a threshold on each column is not what its authors do.
    calls: costs of its columns -> denoiser calls an image of all of them
      together, which is less where they share some.
  """

  queries: Callable[[Settings, Any], pd.DataFrame]
  make: Callable[[Any, Any, Settings], MeasureFn]
  place: int = 100
  stride: str = ''
  published: bool = False
  num_timesteps: int = 0
  learned: bool = False
  captions: bool = False
  of: str = NOISE_PREDICTOR
  score: Callable[..., Any] | None = None
  calls: Callable[[pd.Series], float] = sum


def of_noise(
  queries: Callable[[Settings], pd.DataFrame],
  make: Callable[[processes.EpsFn, schedules.Schedule, Settings], SignalFn],
  **more: Any,
) -> Signal:
  """A signal that sees the noise predictor alone, and not the weights."""

  def make_measure(eps_fn_of, schedule, settings) -> MeasureFn:
    def measure(params, x0, cond, keys):
      return make(eps_fn_of(params), schedule, settings)(x0, cond, keys)

    return measure

  return Signal(
    lambda settings, params: queries(settings), make_measure, **more
  )


def table(rows: Sequence[tuple]) -> pd.DataFrame:
  """Rows of COLUMNS."""
  return pd.DataFrame(rows, columns=COLUMNS)


def pixels(x: jax.Array) -> tuple[int, ...]:
  """Axes of an image."""
  return tuple(range(1, x.ndim))


def at(x: jax.Array, t: jax.Array | int) -> jax.Array:
  """One timestep for the whole batch: int [B]."""
  return jnp.full((x.shape[0],), t, jnp.int32)


def noise(keys: jax.Array, t: Any, draw: Any, like: jax.Array) -> jax.Array:
  """eps of an example, timestep and draw."""
  fold = jax.random.fold_in
  key_of_draw = jax.vmap(lambda key: fold(fold(key, t), draw))(keys)
  return prng.normal_each(key_of_draw, like.shape[1:])


def norm4(x: jax.Array) -> jax.Array:
  """(mean |x|^4)^(1/4) over pixels, [B]; safe from overflow and of 0."""
  largest = jnp.abs(x).max(axis=pixels(x), keepdims=True)
  scaled = x / jnp.maximum(largest, jnp.finfo(x.dtype).tiny)
  mean = jnp.power(scaled, 4).mean(axis=pixels(x))
  return largest.reshape(-1) * jnp.power(mean, 0.25)


def ddim(
  schedule: schedules.Schedule,
  x: jax.Array,
  eps: jax.Array,
  start: jax.Array,
  end: jax.Array,
) -> jax.Array:
  """[x -> y]: a step without noise, up or down, given e(x, start)."""
  a, s = schedule.signal_scale(start), schedule.noise_scale(start)
  return schedule.signal_scale(end) * (x - s * eps) / a + (
    schedule.noise_scale(end) * eps
  )


def columns(queries: pd.DataFrame, *names: str) -> tuple[jax.Array, ...]:
  """Whole numbers of the table, int32 [Q] a name."""
  return tuple(
    jnp.asarray(queries[name].to_numpy(), jnp.int32) for name in names
  )


def loss_at(
  eps_fn: processes.EpsFn,
  schedule: schedules.Schedule,
  x0: jax.Array,
  eps: jax.Array,
  t: jax.Array | int,
  cond: Any,
) -> jax.Array:
  """Mean squared error of the noise predictor at one timestep: [B]."""
  ts = at(x0, t)
  x_t = processes.add_noise(schedule, x0, eps, ts)
  return jnp.square(eps_fn(x_t, ts, cond) - eps).mean(axis=pixels(x0))


def reached(c: Settings, stride: int) -> list[int]:
  """Timesteps of the grid that steps of k reach."""
  return [t for t in c.timesteps if t and t % stride == 0]
