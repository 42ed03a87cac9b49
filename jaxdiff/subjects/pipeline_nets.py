"""What the nets of a text-to-image pipeline compute, by their parameters.

Parameters are a dict: `encode`, a list of those of the text encoders, `denoise`
and `decode`, those of the denoiser and of the autoencoder.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion import processes
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.interop import pipeline
from jaxdiff.sampling import prompted, text_to_image


class PipelineNets:
  """Of one pipeline, and of others of the same nets."""

  def __init__(
    self, model: pipeline.Pipeline, dtype: Any, height: int, width: int
  ):
    """For images of a height and a width, computed in `dtype`."""
    self._model = model
    self._height, self._width = height, width
    self._texts = [part.net.clone(dtype=dtype) for part in model.text_encoders]
    self._denoiser = model.denoiser.net.clone(dtype=dtype)
    self._coder = model.autoencoder.net.clone(dtype=dtype)

  def tokens(self, texts: Sequence[str]) -> np.ndarray:
    """int32 [n, text encoders, T]."""
    rows = [words(texts) for words in self._model.tokenizers]
    return np.stack(rows, axis=1)

  def encode(self, params: Any, tokens: jax.Array) -> text_to_image.Cond:
    """Of tokens [B, text encoders, T]; with sizes if the net takes them."""
    columns = [tokens[:, k] for k in range(len(self._texts))]
    cond = text_to_image.encode(self._texts, params, columns)
    if self._denoiser.addition_embed_type is not None:
      cond = text_to_image.with_sizes(cond, self._height, self._width)
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), cond)

  def eps_fn_of(self, params: Any) -> processes.EpsFn:
    """The noise predictor; what else conditions hold is not for it."""
    eps_fn = self._eps_fn_of(params['denoise'])

    def given(x_t, t, cond):
      rest = {name: leaf for name, leaf in cond.items() if name != 'reduced'}
      return eps_fn(x_t, t, rest)

    return given

  def _eps_fn_of(self, params: Any) -> processes.EpsFn:
    """Of the denoiser's weights alone."""
    scheduler = self._model.scheduler
    return processes.make_eps_fn(
      lambda x_t, t, cond: self._denoiser.apply(params, x_t, t, cond),
      scheduler.schedule,
      scheduler.prediction_type,
    )

  @property
  def latents(self) -> tuple[int, int, int]:
    """(h, w, C) of an image."""
    scale = self._model.scale
    channels = self._denoiser.out_channels
    return self._height // scale, self._width // scale, channels

  def stepwise(self) -> prompted.Denoiser:
    """The denoiser by steps, of encoded texts."""
    return prompted.Denoiser(
      eps_fn_of=self._eps_fn_of,
      null_of=lambda empty: text_to_image.null_of(
        empty, self._model.zeros_for_empty
      ),
      schedule=self._model.scheduler.schedule,
      shape=self.latents,
      options=self._model.scheduler.options,
    )

  def prepare(self, params: Any, x0: jax.Array, tokens: Any) -> tuple[Any, Any]:
    """Modes of images' latents, and encoded captions with their reductions.

    Args:
      params: of all nets.
      x0: images [B, H, W, 3] in [-1, 1].
      tokens: int32 [B, 1 + reductions, text encoders, T].
    """
    z = self._coder.apply(params['decode'], x0, method='encode').mean
    z = (z - self._model.shift_factor) * self._model.scaling_factor
    return z, prompted.with_reduced(
      functools.partial(self.encode, params['encode']), tokens
    )

  def denoise(
    self, params: Any, keys: jax.Array, cond: Any, null: Any, **options: Any
  ) -> jax.Array:
    """Latents of images; `options` are of `text_to_image.denoise`."""
    scheduler = self._model.scheduler
    noise = steps_lib.noise(
      keys, jnp.asarray(len(scheduler.schedule)), self.latents
    )
    if options['sampler'] == scheduler.sampler:
      noise = noise * scheduler.start(options['num_steps'])
    return text_to_image.denoise(
      self._denoiser,
      params,
      noise,
      keys,
      cond,
      text_to_image.null_of(null, self._model.zeros_for_empty),
      schedule=scheduler.schedule,
      prediction_type=scheduler.prediction_type,
      **scheduler.options,
      **options,
    )

  def decode(self, params: Any, latents: jax.Array) -> jax.Array:
    """Images of latents."""
    return text_to_image.decode(
      self._coder,
      params,
      latents,
      self._model.scaling_factor,
      self._model.shift_factor,
    )
