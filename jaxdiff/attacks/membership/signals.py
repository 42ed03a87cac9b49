"""Kinds of signal: what can be asked of a model about one image.

Every kind turns images into columns of numbers, smaller = more likely a member,
and describes them in a table: name, t, draw, flip, layer, cost. The cost is in
denoiser calls for an image, as if the column were measured alone; a backward
pass counts as two. With e(x, t) the noise predictor, a and s signal and noise
scale at t, mean and norms over pixels, [x -> y] a DDIM step without noise from
one timestep to another:

(1)  loss       mean |eps - e(a x0 + s eps, t)|^2                 (paper, 4.2)
(2)  secmi      mean |[x' -> x_t] - x_t|^2, x' = [x_t -> x_(t + k)], x_t
                reached from x0 in steps of k     (Duan et al. 2023, SecMI stat)
(3)  pia        |e(a x0 + s e0, t) - e0|_4, e0 = e(x0, 0)   (Kong et al. 2024)
     pian       the same with e0 scaled to E|e0| of a standard normal
(4)  pfami      mean over crops of L(x0) - L(crop), L as (1)  (Fu et al. 2023)
(5)  sima       |e(x0, t)|_4: no noise is added              (SimA, 2025)
(6)  rediffuse  root mean |x0 - mean of n variations|^2: noised to t, denoised
                in steps of k: no gradient, no e    (Li et al. 2025, ReDiffuse)
(7)  gsa        |d L / d W|^2 of every layer W, L the mean of (1) over ten
                timesteps                                    (Pang et al. 2025)
(8)  secmi_published      (2) at t = 90, k = 10: the authors' t_SEC = 100
     rediffuse_published  (6) from t = 200 in steps of 100 down to timestep 0,
                          n = 10; their verdict is a network's, here a threshold
     pfami_published      mean over t = 0, 50 .. 450 of 1 - L(crop) / L(x0), one
                          crop of 0.81 of each side in whole pixels, a noise for
                          each; without their optional reference model

(8) are the settings of the authors' public code (SecMI, ReDiffuse, MIA-Gen),
the others leave timesteps, strides and draws to the config. Norms are means,
(mean |x|^4)^(1/4), whatever the size of the image; they order images as sums
do. Noise is folded from (attack root, example, t, draw) and
never from the model or the mirror: the same noise for all models, and for an
image and its mirror image, is what makes likelihood-ratio attacks sharp.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxdiff.diffusion import processes, schedules
from jaxdiff.runtime import prng

# signal_fn(x0 [B, H, W, C], cond, keys [B]) -> float32 [B, Q].
SignalFn = Callable[[jax.Array, Any, jax.Array], jax.Array]

COLUMNS = ('name', 't', 'draw', 'flip', 'layer', 'cost')
# Of PFAMI: the share of each side that a centred crop keeps.
CROPS = tuple(np.linspace(0.95, 0.70, 10).tolist())
# The first of ReDiffuse's, PFAMI's and GSA's draws; the losses' start at 0.
_VARIATIONS, _FLUCTUATIONS, GRADIENT_DRAW = 1000, 2000, 3000
# Timesteps of GSA's loss, evenly spaced.
_GSA_STEPS = 10
# Examples whose gradients are in memory together.
_GRADIENTS = 4


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the kinds leave open.

  Attributes:
    timesteps: grid of 0-based timesteps, rising.
    draws: noise draws of the loss at each.
    flip: measure the loss of the mirror image too.
    stride: k of SecMI.
    variations: n of ReDiffuse.
    variation_stride: k of ReDiffuse.
  """

  timesteps: tuple[int, ...]
  draws: int = 1
  flip: bool = False
  stride: int = 10
  variations: int = 10
  variation_stride: int = 50


@dataclasses.dataclass(frozen=True)
class Kind:
  """One kind of signal.

  Attributes:
    queries: Settings -> its columns as a table.
    make: (eps_fn, schedule, settings) -> SignalFn of these columns.
  """

  queries: Callable[[Settings], pd.DataFrame]
  make: Callable[[processes.EpsFn, schedules.Schedule, Settings], SignalFn]


def _table(rows: Sequence[tuple]) -> pd.DataFrame:
  return pd.DataFrame(rows, columns=COLUMNS)


def _pixels(x: jax.Array) -> tuple[int, ...]:
  return tuple(range(1, x.ndim))


def _at(x: jax.Array, t: jax.Array | int) -> jax.Array:
  """One timestep for the whole batch: int [B]."""
  return jnp.full((x.shape[0],), t, jnp.int32)


def _noise(keys: jax.Array, t: Any, draw: Any, like: jax.Array) -> jax.Array:
  """eps of an example, timestep and draw."""
  fold = jax.random.fold_in
  own = jax.vmap(lambda key: fold(fold(key, t), draw))(keys)
  return prng.normal_each(own, like.shape[1:])


def _norm4(x: jax.Array) -> jax.Array:
  """(mean |x|^4)^(1/4) over pixels, [B]; safe from overflow and of 0."""
  largest = jnp.abs(x).max(axis=_pixels(x), keepdims=True)
  scaled = x / jnp.maximum(largest, jnp.finfo(x.dtype).tiny)
  mean = jnp.power(scaled, 4).mean(axis=_pixels(x))
  return largest.reshape(-1) * jnp.power(mean, 0.25)


def _ddim(
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


def loss_queries(c: Settings) -> pd.DataFrame:
  """Columns of the loss: timestep, draw, mirrored."""
  return _table([
    ('loss', t, draw, mirrored, '', 1)
    for t in c.timesteps
    for draw in range(c.draws)
    for mirrored in range(2 if c.flip else 1)
  ])  # fmt: skip


def _loss(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: Settings
) -> SignalFn:
  """Equation (1)."""
  table = _columns(loss_queries(c), 't', 'draw', 'flip')

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    def query(column: tuple[jax.Array, ...]) -> jax.Array:
      t, draw, flip = column
      x = jnp.where(flip == 1, x0[:, :, ::-1], x0)
      eps = _noise(keys, t, draw, x0)
      return _loss_at(eps_fn, schedule, x, eps, t, cond)

    return jax.lax.map(query, table).T

  return signal_fn


def _columns(queries: pd.DataFrame, *names: str) -> tuple[jax.Array, ...]:
  return tuple(
    jnp.asarray(queries[name].to_numpy(), jnp.int32) for name in names
  )


def _loss_at(
  eps_fn: processes.EpsFn,
  schedule: schedules.Schedule,
  x0: jax.Array,
  eps: jax.Array,
  t: jax.Array | int,
  cond: Any,
) -> jax.Array:
  ts = _at(x0, t)
  x_t = processes.add_noise(schedule, x0, eps, ts)
  return jnp.square(eps_fn(x_t, ts, cond) - eps).mean(axis=_pixels(x0))


def reached(c: Settings, stride: int) -> list[int]:
  """Timesteps of the grid that steps of k reach."""
  return [t for t in c.timesteps if t and t % stride == 0]


def secmi_queries(c: Settings) -> pd.DataFrame:
  """A column a timestep that steps of k reach; all share one trajectory."""
  return _table(
    [('secmi', t, 0, 0, '', t // c.stride + 2) for t in reached(c, c.stride)]
  )


def _secmi(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: Settings
) -> SignalFn:
  """Equation (2): the trajectory goes one step beyond the last timestep.

  Up and down again moves x by (s_t - a_t s_u / a_u) (e(up, u) - e(x, t)), in
  which x itself does not cancel.
  """
  wanted = np.array(reached(c, c.stride)) // c.stride
  level = schedule.alphas_cumprod[:: c.stride][: wanted.max() + 2]
  a, s = np.sqrt(level), np.sqrt(1.0 - level)
  moves = jnp.asarray(s[:-1] - a[:-1] * s[1:] / a[1:], jnp.float32)

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    del keys  # nothing is random
    eps = eps_fn(x0, _at(x0, 0), cond)

    def step(carry, number):
      # x and e(x) at step `number`.
      x, eps = carry
      t, above = number * c.stride, (number + 1) * c.stride
      up = _ddim(schedule, x, eps, t, above)
      eps_up = eps_fn(up, _at(x0, above), cond)
      moved = moves[number] * (eps_up - eps)
      return (up, eps_up), jnp.square(moved).mean(axis=_pixels(x0))

    _, errors = jax.lax.scan(step, (x0, eps), jnp.arange(wanted.max() + 1))
    return errors[wanted].T

  return signal_fn


def pia_queries(c: Settings, name: str = 'pia') -> pd.DataFrame:
  """A column a timestep."""
  return _table([(name, t, 0, 0, '', 2) for t in c.timesteps])


def _pia(
  eps_fn: processes.EpsFn,
  schedule: schedules.Schedule,
  c: Settings,
  normalised: bool = False,
) -> SignalFn:
  """Equation (3)."""

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    del keys
    eps = eps_fn(x0, _at(x0, 0), cond)
    if normalised:
      size = jnp.abs(eps).mean(axis=_pixels(x0), keepdims=True)
      eps = eps * (math.sqrt(2.0 / math.pi) / size)

    def query(t: jax.Array) -> jax.Array:
      ts = _at(x0, t)
      x_t = processes.add_noise(schedule, x0, eps, ts)
      return _norm4(eps_fn(x_t, ts, cond) - eps)

    return jax.lax.map(query, jnp.asarray(c.timesteps)).T

  return signal_fn


def pfami_queries(c: Settings) -> pd.DataFrame:
  """A column a timestep."""
  cost = 1 + len(CROPS)
  return _table([('pfami', t, 0, 0, '', cost) for t in c.timesteps])


def crop(x: jax.Array, share: jax.Array) -> jax.Array:
  """The centre of images [B, H, W, C], `share` of each side, at full size."""
  height, width = x.shape[1:3]
  scale = jnp.broadcast_to(1.0 / share, (2,))
  size = jnp.asarray([height, width], jnp.float32)
  return jax.vmap(
    lambda one: jax.image.scale_and_translate(
      one, one.shape, (0, 1), scale, 0.5 * size * (1.0 - scale),
      method='linear', antialias=False,
    )
  )(x)  # fmt: skip


def _pfami(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: Settings
) -> SignalFn:
  """Equation (4); the image and its crops get the same noise."""
  shares = jnp.asarray(CROPS, jnp.float32)

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    def query(t: jax.Array) -> jax.Array:
      eps = _noise(keys, t, _FLUCTUATIONS, x0)
      own = _loss_at(eps_fn, schedule, x0, eps, t, cond)
      cropped = jax.lax.map(
        lambda share: _loss_at(eps_fn, schedule, crop(x0, share), eps, t, cond),
        shares,
      )
      return (own[None] - cropped).mean(axis=0)

    return jax.lax.map(query, jnp.asarray(c.timesteps)).T

  return signal_fn


def sima_queries(c: Settings) -> pd.DataFrame:
  """A column a timestep."""
  return _table([('sima', t, 0, 0, '', 1) for t in c.timesteps])


def _sima(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: Settings
) -> SignalFn:
  """Equation (5)."""
  del schedule

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    del keys
    return jax.lax.map(
      lambda t: _norm4(eps_fn(x0, _at(x0, t), cond)), jnp.asarray(c.timesteps)
    ).T

  return signal_fn


def rediffuse_queries(c: Settings) -> pd.DataFrame:
  """A column a timestep that steps of k reach."""
  return _table([
    ('rediffuse', t, 0, 0, '', c.variations * (t // c.variation_stride))
    for t in reached(c, c.variation_stride)
  ])  # fmt: skip


def _rediffuse(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: Settings
) -> SignalFn:
  """Equation (6); the last step, from k, leads to the predicted image."""
  stride = c.variation_stride
  timesteps = jnp.asarray(reached(c, stride))

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    def variation(t: jax.Array, draw: jax.Array) -> jax.Array:
      eps = _noise(keys, t, _VARIATIONS + draw, x0)
      x_t = processes.add_noise(schedule, x0, eps, _at(x0, t))

      def step(number: jax.Array, x: jax.Array) -> jax.Array:
        start = t - number * stride
        a, s = schedule.signal_scale(start), schedule.noise_scale(start)
        eps_hat = eps_fn(x, _at(x0, start), cond)
        x0_hat = (x - s * eps_hat) / a
        end = start - stride
        a, s = schedule.signal_scale(end), schedule.noise_scale(end)
        return jnp.where(end > 0, a * x0_hat + s * eps_hat, x0_hat)

      return jax.lax.fori_loop(0, t // stride, step, x_t)

    def query(t: jax.Array) -> jax.Array:
      total = jax.lax.fori_loop(
        0,
        c.variations,
        lambda draw, sum_: sum_ + variation(t, draw),
        jnp.zeros_like(x0),
      )
      error = jnp.square(x0 - total / c.variations).mean(axis=_pixels(x0))
      return jnp.sqrt(error)

    return jax.lax.map(query, timesteps).T

  return signal_fn


# Timesteps of the authors' settings; all of them have 1,000.
PUBLISHED_TIMESTEPS = 1000
_SECMI = Settings((90,), stride=10)
_REDIFFUSE = Settings((200,), variations=10, variation_stride=100)
_PFAMI_TIMESTEPS = tuple(range(0, 500, 50))
_PFAMI_SHARE = CROPS[5]


def renamed(name: str, queries: pd.DataFrame) -> pd.DataFrame:
  """The same columns under another name."""
  return queries.assign(name=name)


def _rediffuse_published(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: Settings
) -> SignalFn:
  """Equation (8): the last step leads to timestep 0, not to the image."""
  del c
  own = _REDIFFUSE

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    t, k = own.timesteps[0], own.variation_stride

    def variation(draw: jax.Array) -> jax.Array:
      eps = _noise(keys, t, _VARIATIONS + draw, x0)
      x_t = processes.add_noise(schedule, x0, eps, _at(x0, t))

      def step(number: jax.Array, x: jax.Array) -> jax.Array:
        start = t - number * k
        return _ddim(
          schedule, x, eps_fn(x, _at(x0, start), cond), start, start - k
        )

      return jax.lax.fori_loop(0, t // k, step, x_t)

    total = jax.lax.fori_loop(
      0,
      own.variations,
      lambda draw, sum_: sum_ + variation(draw),
      jnp.zeros_like(x0),
    )
    error = jnp.square(x0 - total / own.variations).mean(axis=_pixels(x0))
    return jnp.sqrt(error)[:, None]

  return signal_fn


def whole_crop(x: jax.Array, share: float) -> jax.Array:
  """The centre of images in whole pixels, at full size by linear interpolation.

  Args:
    x: [B, H, W, C].
    share: of each side; what is left of a pixel is cut off.
  """
  sides = [max(1, int(size * share)) for size in x.shape[1:3]]
  top, left = (
    round((size - side) / 2)
    for size, side in zip(x.shape[1:3], sides, strict=True)
  )
  part = x[:, top : top + sides[0], left : left + sides[1]]
  return jax.image.resize(part, x.shape, 'linear', antialias=False)


def _pfami_published(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: Settings
) -> SignalFn:
  """Equation (8): relative, and each loss with a noise of its own."""
  del c

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    cropped = whole_crop(x0, _PFAMI_SHARE)

    def at(t: jax.Array) -> jax.Array:
      own, other = (
        _loss_at(
          eps_fn,
          schedule,
          x,
          _noise(keys, t, _FLUCTUATIONS + number, x0),
          t,
          cond,
        )
        for number, x in enumerate((x0, cropped), 1)
      )
      return 1.0 - other / own

    fluctuations = jax.lax.map(at, jnp.asarray(_PFAMI_TIMESTEPS))
    return fluctuations.mean(axis=0)[:, None]

  return signal_fn


# At their authors' settings, whatever those of the run are.
PUBLISHED: dict[str, Kind] = {
  'secmi_published': Kind(
    lambda c: renamed('secmi_published', secmi_queries(_SECMI)),
    lambda eps_fn, schedule, c: _secmi(eps_fn, schedule, _SECMI),
  ),
  'pfami_published': Kind(
    lambda c: _table(
      [('pfami_published', -1, 0, 0, '', 2 * len(_PFAMI_TIMESTEPS))]
    ),
    _pfami_published,
  ),
  'rediffuse_published': Kind(
    lambda c: renamed('rediffuse_published', rediffuse_queries(_REDIFFUSE)),
    _rediffuse_published,
  ),
}
KINDS: dict[str, Kind] = {
  'loss': Kind(loss_queries, _loss),
  'secmi': Kind(secmi_queries, _secmi),
  'pia': Kind(pia_queries, _pia),
  'pian': Kind(
    lambda c: pia_queries(c, 'pian'),
    lambda *args: _pia(*args, normalised=True),
  ),
  'pfami': Kind(pfami_queries, _pfami),
  'sima': Kind(sima_queries, _sima),
  'rediffuse': Kind(rediffuse_queries, _rediffuse),
}
EVERY = KINDS | PUBLISHED
# Measured on weights, not through e(x, t) alone: see gsa_queries.
GSA = 'gsa'


def gsa_queries(params: Any) -> pd.DataFrame:
  """A column a layer; `t` is -1: the mean over ten timesteps.

  Args:
    params: of one model, or their shapes.
  """
  names = [
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  ]
  cost = 3.0 * _GSA_STEPS / len(names)  # forward, and backward for two
  return _table([(GSA, -1, 0, 0, name, cost) for name in names])


def make_gsa(
  eps_fn_of: Callable[[Any], processes.EpsFn], schedule: schedules.Schedule
) -> Callable[[Any, jax.Array, Any, jax.Array], jax.Array]:
  """Equation (7): (params, x0, cond, keys) -> [B, number of layers]."""
  num = len(schedule)
  timesteps = np.unique(np.arange(_GSA_STEPS) * num // _GSA_STEPS)

  def one(params: Any, example: tuple[Any, ...]) -> jax.Array:
    x0, cond, key = jax.tree.map(lambda leaf: leaf[None], example)
    keys = jnp.repeat(key, len(timesteps))
    many = jax.tree.map(
      lambda leaf: jnp.repeat(leaf, len(timesteps), axis=0), (x0, cond)
    )
    ts = jnp.asarray(timesteps, jnp.int32)
    own = jax.vmap(
      lambda key, t: jax.random.fold_in(
        jax.random.fold_in(key, t), GRADIENT_DRAW
      )
    )(keys, ts)
    eps = prng.normal_each(own, x0.shape[1:])

    def loss(params: Any) -> jax.Array:
      x_t = processes.add_noise(schedule, many[0], eps, ts)
      return jnp.square(eps_fn_of(params)(x_t, ts, many[1]) - eps).mean()

    grads = jax.tree.leaves(jax.grad(loss)(params))
    return jnp.stack([jnp.square(grad).sum() for grad in grads])

  def signal_fn(
    params: Any, x0: jax.Array, cond: Any, keys: jax.Array
  ) -> jax.Array:
    return jax.lax.map(
      lambda example: one(params, example),
      (x0, cond, keys),
      batch_size=_GRADIENTS,
    )

  return signal_fn
