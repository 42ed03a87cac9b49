"""A text encoder and a denoiser that are trained together, by their parameters.

Parameters are a dict: `encode`, those of the text encoder, and `denoise`, those
of the denoiser. Images are their own latents.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.diffusion import processes, schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.interop import pipeline_folder
from jaxdiff.models.text_to_image import clip_text, unet
from jaxdiff.sampling import prompted, text_to_image


@dataclasses.dataclass(frozen=True)
class CaptionedNets:
  """Of one model.

  Attributes:
    text: encoder of captions.
    denoiser: of images.
    image_shape: (H, W, C).
    schedule: noise schedule.
    prediction_type: of the denoiser.
    length: tokens of a caption.
  """

  text: clip_text.TextEncoder
  denoiser: unet.ConditionalUNet
  image_shape: tuple[int, int, int]
  schedule: schedules.Schedule
  prediction_type: str
  length: int

  def init(self, key: jax.Array) -> Any:
    """First weights of one model."""
    first, second = jax.random.split(key)
    tokens = jnp.zeros((1, self.length), jnp.int32)
    text = self.text.init(first, tokens)
    cond = self.encode(text, tokens[:, None])
    zero = jnp.zeros((1,), jnp.int32)
    x = jnp.zeros((1, *self.image_shape))
    denoiser = self.denoiser.init(second, x, zero, cond)
    return {'encode': text, 'denoise': denoiser}

  def encode(self, params: Any, tokens: jax.Array) -> text_to_image.Cond:
    """Of tokens [B, 1, T]."""
    return text_to_image.encode([self.text], [params], [tokens[:, 0]])

  def apply(
    self,
    params: Any,
    x_t: jax.Array,
    t: jax.Array,
    cond: jax.Array,
    *,
    dropout_keys: jax.Array | None = None,
  ) -> Any:
    """What the denoiser puts out, of tokens [B, texts, 1, T], the first text.

    As that of a Flax module, so that training is that of any net.
    """
    encoded = self.encode(params['encode'], cond[:, 0])
    return self.denoiser.apply(
      params['denoise'], x_t, t, encoded, dropout_keys=dropout_keys
    )

  def eps_fn_of(self, params: Any) -> processes.EpsFn:
    """The noise predictor, of captions as tokens: gradients reach them."""
    return processes.make_eps_fn(
      lambda x, t, cond: self.apply(params, x, t, cond['ids'][:, None]),
      self.schedule,
      self.prediction_type,
    )

  def stepwise(self) -> prompted.Denoiser:
    """The denoiser by steps, of encoded captions."""

    def eps_fn_of(params: Any) -> processes.EpsFn:
      def predict(x: jax.Array, t: jax.Array, cond: Any) -> Any:
        return self.denoiser.apply(params, x, t, cond)

      return processes.make_eps_fn(predict, self.schedule, self.prediction_type)

    return prompted.Denoiser(
      eps_fn_of=eps_fn_of,
      null_of=lambda empty: empty,
      schedule=self.schedule,
      shape=self.image_shape,
      options=pipeline_folder.OPTIONS,
    )

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
