"""A text encoder and a denoiser that are trained together, by their parameters.

Parameters are a dict: `encode`, those of the text encoder, and `denoise`, those
of the denoiser. Images are their own latents.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion import losses, processes, schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.interop import pipeline_folder
from jaxdiff.models.text_to_image import clip_text, unet
from jaxdiff.sampling import prompted, text_to_image
from jaxdiff.training import train_step


@dataclasses.dataclass(frozen=True)
class CaptionedNets:
  """Of one model.

  Attributes:
    text: encoder of captions.
    denoiser: of images.
    image_shape: (H, W, C).
    schedule: noise schedule.
    prediction_type: of the denoiser.
    weighting: of timesteps in training.
    dropout: share of empty captions in training.
    empty: int32 [T], tokens of an empty caption.
  """

  text: clip_text.TextEncoder
  denoiser: unet.ConditionalUNet
  image_shape: tuple[int, int, int]
  schedule: schedules.Schedule
  prediction_type: str
  weighting: str
  dropout: float
  empty: np.ndarray

  def init(self, key: jax.Array) -> Any:
    """First weights of one model."""
    first, second = jax.random.split(key)
    tokens = jnp.zeros((1, len(self.empty)), jnp.int32)
    text = self.text.init(first, tokens)
    cond = self.encode(text, tokens[:, None])
    zero = jnp.zeros((1,), jnp.int32)
    x = jnp.zeros((1, *self.image_shape))
    denoiser = self.denoiser.init(second, x, zero, cond)
    return {'encode': text, 'denoise': denoiser}

  def encode(self, params: Any, tokens: jax.Array) -> text_to_image.Cond:
    """Of tokens [B, 1, T]."""
    return text_to_image.encode([self.text], [params], [tokens[:, 0]])

  def _predict(self, params: Any, x: jax.Array, t: jax.Array, cond: Any):
    return self.denoiser.apply(params, x, t, cond)

  def loss(
    self, params: Any, batch: train_step.Batch, keys: jax.Array
  ) -> jax.Array:
    """Training loss: t and eps drawn per example; [B] numbers."""
    split = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
    steps = len(self.schedule)
    t = jax.vmap(lambda key: jax.random.randint(key, (), 0, steps))(split[:, 0])
    eps = jax.vmap(lambda key: jax.random.normal(key, batch.x0.shape[1:]))(
      split[:, 1]
    )
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, self.dropout))(
      split[:, 2]
    )
    assert batch.labels is not None  # every image has a caption
    tokens = batch.labels[:, 0]
    empty = jnp.asarray(self.empty)[None, None]
    tokens = jnp.where(dropped[:, None, None], empty, tokens)
    cond = self.encode(params['encode'], tokens)
    return losses.denoising_loss(
      lambda x, t, cond: self._predict(params['denoise'], x, t, cond),
      batch.x0,
      t,
      eps,
      cond,
      schedule=self.schedule,
      prediction_type=self.prediction_type,
      weighting=self.weighting,
    )

  def eps_fn_of(self, params: Any) -> processes.EpsFn:
    """The noise predictor, of captions as tokens: gradients reach them."""

    def predict(x: jax.Array, t: jax.Array, cond: Any) -> jax.Array:
      encoded = self.encode(params['encode'], cond['ids'])
      return self._predict(params['denoise'], x, t, encoded)

    return processes.make_eps_fn(predict, self.schedule, self.prediction_type)

  def prepare(self, params: Any, x0: jax.Array, tokens: Any) -> tuple[Any, Any]:
    """Images as they are, and tokens of captions with their reductions."""
    del params
    return x0, prompted.with_reduced(lambda rows: {'ids': rows}, tokens)

  def denoise(
    self, params: Any, keys: jax.Array, cond: Any, null: Any, **options: Any
  ) -> jax.Array:
    """Images; `options` are of `text_to_image.denoise`."""
    return text_to_image.denoise(
      self.denoiser,
      params,
      steps_lib.noise(keys, jnp.asarray(len(self.schedule)), self.image_shape),
      keys,
      cond,
      null,
      schedule=self.schedule,
      prediction_type=self.prediction_type,
      **pipeline_folder.OPTIONS,
      **options,
    )
