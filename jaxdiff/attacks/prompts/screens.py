"""Screens: does a model know a prompt by heart? At a few calls a prompt.

With eps_c and eps_0 the noise predicted from the prompt and from none, signal
and noise scale a and s at timestep t, guidance w and n numbers in a latent:

(1)  x0             s / a |eps_c - eps_0| / sqrt(n),  at the last timestep:
                    how far the prompt moves the first guess of the image, one
                    definition whatever a net predicts
(2)  dcs            s^2 / a^2 |eps_0 + w (eps_c - eps_0)|^2 / n,  there too:
                    the squared distance of Karras' first step from its noise
                    (Webster 2023, 2305.08694, white box)
(3)  wen_first      |eps_c - eps_0|,  at the first of 50 steps
     wen_trajectory its mean over the steps of a guided run (Wen et al. 2024)
(4)  cosine         cos(eps_0, eps_c - eps_0),  at the last but two of 50 steps,
                    and still of pure noise (Asthana & Belagiannis, 2601.20642;
                    with (3) it is their score)
(5)  agreement      minus the mean, over the two thirds of the seeds, at least
                    three, that have the nearest, of the tiled distance to the
                    next other seed: generations of a prompt that is known by
                    heart are copies of each other (paper, section 4.2), though
                    not all of them; two of another may be so by chance
(6)  edges          share of pixels at which more than half of the seeds have an
                    edge after one step (Webster 2023, black box)

(1) to (4) but for the trajectory see the same noise for every prompt, so that
the part without a prompt is asked for once a batch.
"""

from collections.abc import Sequence
from typing import Any

from etils import epy
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion import processes, schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.metrics import tiled_distance

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import ndimage

# Which need one call a prompt and draw, at some timesteps; and which, images.
SINGLE = ('x0', 'dcs', 'wen_first', 'cosine')
SCREENS = (*SINGLE, 'wen_trajectory', 'agreement', 'edges')

# Steps of the runs that (3) and (4) name.
_STEPS = 50
# Of equation (6): the least edge, summed over channels in [0, 1].
_EDGE = 1.5


def timesteps(
  schedule: schedules.Schedule, spacing: str, steps_offset: int
) -> tuple[int, int, int]:
  """Of equations (1) and (2), of (3), and of (4).

  Args:
    schedule: noise schedule.
    spacing: of the model's runs.
    steps_offset: likewise.
  """
  count = min(_STEPS, len(schedule))
  t = steps_lib.spaced_timesteps(len(schedule), count, spacing)
  if spacing == 'leading':
    t = np.minimum(t + steps_offset, len(schedule) - 1)
  return len(schedule) - 1, int(t[0]), int(t[max(count - 3, 0)])


def single_calls(
  eps_fn: processes.EpsFn,
  noise: jax.Array,
  cond: Any,
  null: Any,
  *,
  schedule: schedules.Schedule,
  t: Sequence[int],
  guidance_scale: float,
) -> jax.Array:
  """Equations (1) to (4) but for the trajectory, in the order of SINGLE.

  Args:
    eps_fn: noise predictor.
    noise: [D, h, w, C], for every prompt the same.
    cond: of the prompts, a tree of [B, ...].
    null: of none, without the leading axis.
    schedule: noise schedule.
    t: as `timesteps` gives them.
    guidance_scale: w.

  Returns:
    float32 [B, 4], means over the D draws; larger is more surely known.
  """
  rows = jax.tree.map(
    lambda c, n: jnp.concatenate([jnp.asarray(n, c.dtype)[None], c]), cond, null
  )
  count = len(jax.tree.leaves(rows)[0])

  def at(draw: tuple[jax.Array, jax.Array]) -> jax.Array:
    x, time = draw
    x = jnp.broadcast_to(x, (count, *x.shape))
    eps = eps_fn(x, jnp.full((count,), time), rows).astype(jnp.float32)
    without, gap = eps[:1], eps[1:] - eps[:1]
    pixels = lambda x: jnp.sum(x, axis=(1, 2, 3))
    squared = pixels(jnp.square(gap))
    norm = jnp.sqrt(squared)
    lengths = norm * jnp.sqrt(pixels(jnp.square(without)))
    guided = pixels(jnp.square(without + guidance_scale * gap))
    cosine = pixels(without * gap) / jnp.maximum(lengths, 1e-30)
    return jnp.stack([norm, guided, cosine])

  # One program whatever the number of timesteps and draws.
  pairs = jax.lax.map(
    at,
    (jnp.tile(noise, (len(t), 1, 1, 1)), jnp.repeat(jnp.array(t), len(noise))),
  ).reshape(len(t), len(noise), 3, -1)
  last, first, late = pairs.mean(axis=1)
  top = jnp.array(t[0])
  ratio = schedule.noise_scale(top) / schedule.signal_scale(top)
  size = noise[0].size
  x0 = ratio * last[0] / np.sqrt(size)
  dcs = jnp.square(ratio) * last[1] / size
  return jnp.stack([x0, dcs, first[0], late[2]], axis=1)


def guided_run(
  eps_fn: processes.EpsFn,
  x: jax.Array,
  cond: Any,
  null: Any,
  steps: steps_lib.Step,
  *,
  guidance_scale: float,
  clip_sample: bool,
) -> tuple[jax.Array, jax.Array]:
  """Images by DDIM, and the trajectory's mean of equation (3).

  Args:
    eps_fn: noise predictor.
    x: noise [B, h, w, C].
    cond: of every row.
    null: of none, without the leading axis.
    steps: of the run.
    guidance_scale: w; the gap is asked for even at 1.
    clip_sample: whether guesses are clipped to [-1, 1], as pixels are.

  Returns:
    x0 [B, h, w, C] and float32 [B].
  """
  both = jax.tree.map(
    lambda c, n: jnp.concatenate([
      c, jnp.broadcast_to(jnp.asarray(n, c.dtype), c.shape)
    ]), cond, null,
  )  # fmt: skip

  def body(x: jax.Array, step: steps_lib.Step) -> tuple[jax.Array, jax.Array]:
    t = jnp.full((2 * len(x),), step.t)
    eps = eps_fn(jnp.tile(x, (2, 1, 1, 1)), t, both).astype(jnp.float32)
    eps_cond, eps_null = jnp.split(eps, 2)
    gap = eps_cond - eps_null
    eps = eps_null + guidance_scale * gap
    x0_hat = (x - step.noise * eps) / step.signal
    if clip_sample:
      x0_hat = jnp.clip(x0_hat, -1.0, 1.0)
    norm = jnp.sqrt(jnp.sum(jnp.square(gap), axis=(1, 2, 3)))
    return step.signal_next * x0_hat + step.noise_next * eps, norm

  x0, norms = jax.lax.scan(body, x, steps)
  return x0, norms.mean(axis=0)


def agreement(images: np.ndarray, grid: int) -> float:
  """Equation (5) of uint8 [S, H, W, C], generations of one prompt."""
  distances = tiled_distance.tile_distances(images, grid)
  np.fill_diagonal(distances, np.inf)
  nearest = np.sort(distances.min(axis=1))
  return -float(nearest[: max(3, -(-2 * len(nearest) // 3))].mean())


def edges(images: np.ndarray) -> float:
  """Equation (6) of uint8 [S, H, W, C], one-step generations of one prompt.

  As in the published code the filter of an image smooths its channels, too.
  """
  found = []
  for x in images.astype(np.float32) / 255.0:
    across, down = (ndimage.sobel(x, axis=axis) for axis in (0, 1))
    found.append(np.hypot(across, down).sum(axis=-1) > _EDGE)
  return float((np.mean(found, axis=0) > 0.5).mean())
