"""Closed-form models of captioned digits: what a screen must find is known.

A prompt is a vector, the one of no prompt is zero. Under each belief the best
predictor of noise has a closed form:

* memoriser: of the prompts that it knows by heart x0 is the training image and
  nothing else; of others, and of none, any of all images;
* generaliser: x0 ~ N(mu + a shift by the prompt, Sigma), of the moments of all
  digits: whatever the prompt, generations differ.
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxdiff.data import datasets
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.sampling import prompted, text_to_image
from tests import oracles

SCHEDULE = oracles.SCHEDULE
COUNT, WORDS = 60, 16
# Prompts that the memoriser knows by heart: the first of all.
KNOWN = 12
SHAPE = (8, 8, 1)


def brought():
  """Images in [-1, 1] of COUNT prompts, and the prompts as vectors."""
  digits = datasets.digits()
  order = np.random.default_rng(0).permutation(len(digits))[:COUNT]
  prompts = np.random.default_rng(1).standard_normal((COUNT, WORDS))
  return datasets.to_model_range(digits.images[order]), jnp.asarray(
    prompts, jnp.float32
  )


def memoriser(images, prompts):
  flat = jnp.asarray(images).reshape(len(images), -1)

  def eps_fn(x_t, t, cond):
    x = x_t.reshape(len(x_t), -1)
    a = SCHEDULE.signal_scale(t)[:, None]
    s = SCHEDULE.noise_scale(t)[:, None]
    far = jnp.square(x[:, None] - a[..., None] * flat[None]).sum(-1)
    told = jnp.square(cond['tokens'][:, None] - prompts[None]).sum(-1)
    # A prompt known by heart leaves no other image.
    own = jnp.where((told < 1e-6) & (jnp.arange(COUNT)[None] < KNOWN), 1e6, 0.0)
    weights = jax.nn.softmax(-far / (2 * s * s) + own, axis=1)
    return ((x - a * (weights @ flat)) / s).reshape(x_t.shape)

  return eps_fn


def generaliser():
  images = datasets.to_model_range(datasets.digits().images)
  mean, values, basis = oracles.fitted(images)
  mix = jnp.asarray(
    np.random.default_rng(2).standard_normal((WORDS, len(mean))), jnp.float32
  )

  def eps_fn(x_t, t, cond):
    a = SCHEDULE.signal_scale(t)[:, None]
    s = SCHEDULE.noise_scale(t)[:, None]
    shift = 0.05 * cond['tokens'] @ mix
    centred = x_t.reshape(len(x_t), -1) - a * (mean[None] + shift)
    spread = a * a * values[None] + s * s
    return (s * (centred @ basis / spread) @ basis.T).reshape(x_t.shape)

  return eps_fn


def plan(eps_fn, prompts, *, num_models=1, batch_size=64, scale=1.0):
  """Drawing from an oracle as from any model: texts say nothing of prompts."""
  texts = tuple(
    hashlib.sha256(f'prompt {k}'.encode()).hexdigest()[:12]
    for k in range(len(prompts))
  )
  number = {text: k for k, text in enumerate(texts)} | {'': len(texts)}
  table = jnp.concatenate([prompts, jnp.zeros((1, WORDS))])

  def restore(block, mesh):
    zero = np.zeros((len(block.models), 1), np.float32)
    return mesh_lib.put(
      mesh, {'encode': zero, 'denoise': zero, 'decode': zero},
      mesh_lib.PER_MODEL,
    )  # fmt: skip

  def denoise(params, keys, cond, null):
    del params
    noise = steps_lib.noise(keys, jnp.asarray(len(SCHEDULE)), SHAPE)
    net = _Net(eps_fn)
    return text_to_image.denoise(
      net, None, noise, keys, cond, null, schedule=SCHEDULE,
      prediction_type='epsilon', guidance_scale=scale, sampler='ddim',
      num_steps=10, timestep_spacing='leading', clip_sample=False,
    )  # fmt: skip

  one = jax.ShapeDtypeStruct((1,), np.float32)
  return prompted.PromptedPlan(
    num_samples=0, block_size=64, texts=texts,
    table=pd.DataFrame(
      {'id': texts, 'prompt': texts, 'number': range(len(texts))}
    ),
    tokens_of=lambda rows: np.array(
      [[number[text]] for text in rows], np.int32
    ),
    encode_fn=lambda params, tokens: {'tokens': table[tokens[:, 0]]},
    denoise_fn=denoise,
    decode_fn=lambda params, x0: x0,
    denoiser=prompted.Denoiser(
      eps_fn_of=lambda params: eps_fn,
      null_of=lambda empty: empty,
      schedule=SCHEDULE,
      shape=SHAPE,
      options={'timestep_spacing': 'leading', 'clip_sample': False},
    ),
    guidance_scale=scale,
    ensemble=ensemble_lib.Ensemble(
      seed=0, num_models=num_models, models_per_block=num_models,
      restore=restore,
      shapes=lambda: {'encode': one, 'denoise': one, 'decode': one},
    ),
    batch_size=batch_size, decode_batch_size=batch_size, num_steps=10,
    image_shape=SHAPE,
  )  # fmt: skip


class _Net:
  """What `text_to_image.denoise` asks of a net."""

  def __init__(self, eps_fn):
    self._eps_fn = eps_fn

  def apply(self, params, x, t, cond):
    del params
    return self._eps_fn(x, t, cond)
