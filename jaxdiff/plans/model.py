"""The net, its first weights and its loss, from a config."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxdiff import inputs
from jaxdiff.diffusion import ambient, losses, schedules
from jaxdiff.interop import diffusers
from jaxdiff.models import unet
from jaxdiff.training import train_step


def make_net(
  c: ml_collections.ConfigDict,
  image_shape: tuple[int, int, int],
  num_classes: int,
) -> unet.UNet:
  """The U-Net; with label dropout, one more class is the null label."""
  num_class_embeds = None
  if c.model.class_conditional:
    num_class_embeds = num_classes + (c.train.label_dropout > 0)
  fields = {
    field.name: c.model[field.name]
    for field in dataclasses.fields(unet.UNet)
    if field.name in c.model
  }
  fields |= {
    'out_channels': image_shape[-1] * (2 if c.model.learned_variance else 1),
    'num_class_embeds': num_class_embeds,
    'attention_head_dim': c.model.attention_head_dim or None,
    'attn_norm_num_groups': c.model.attn_norm_num_groups or None,
    'dtype': jnp.dtype(c.model.dtype),
  }
  return unet.UNet(**fields)


def make_init_fn(
  net: unet.UNet, image_shape: tuple[int, int, int], conditional: bool
) -> Callable[[jax.Array], Any]:
  """key -> params of one model."""

  def init_fn(key: jax.Array) -> Any:
    x = jnp.zeros((1, *image_shape))
    zero = jnp.zeros((1,), jnp.int32)
    return net.init(key, x, zero, zero if conditional else None)

  return init_fn


def start_from(
  folder: str,
  net: unet.UNet,
  image_shape: tuple[int, int, int],
  diffusion: dict[str, Any],
) -> Callable[[jax.Array], Any]:
  """An init_fn that gives every model the weights of a diffusers folder.

  Raises:
    InputError: naming the attribute or the shape that differs from the config.
  """
  given = diffusers.read(folder)
  if given.image_shape != image_shape:
    raise inputs.InputError(
      f'model.init_from: {folder} is for images {given.image_shape}, data.name '
      f'gives {image_shape}'
    )
  for key, value in (given.diffusion or {}).items():
    if diffusion[key] != value:
      raise inputs.InputError(
        f'model.init_from: {folder} was trained with {key} {value!r}, '
        f'diffusion.{key} is {diffusion[key]!r}: take its value'
      )
  for field in dataclasses.fields(unet.UNet):
    theirs, ours = (getattr(each, field.name) for each in (given.net, net))
    free = ('dropout', 'dtype', 'name', 'num_train_timesteps')
    if theirs != ours and field.name not in free:
      raise inputs.InputError(
        f'model.init_from: {field.name} is {theirs} in {folder}, {ours} by the '
        'config'
      )
  return lambda key: given.params


def as_pretrained(
  c: ml_collections.ConfigDict,
  net: unet.UNet,
  image_shape: tuple[int, int, int],
  params: Any,
) -> diffusers.Pretrained:
  """A trained model as a diffusers folder's content."""
  return diffusers.Pretrained(
    net=net,
    params=params,
    image_shape=image_shape,
    diffusion=c.diffusion.to_dict(),
    sample={
      name: c.sample[name]
      for name in ('timestep_spacing', 'variance', 'clip_sample')
    },
  )


def make_loss_fn(
  apply: Callable[..., Any],
  schedule: schedules.Schedule,
  *,
  prediction_type: str,
  weighting: str,
  label_dropout: float,
  null_label: int | np.ndarray | None,
  label_noise: float = 0.0,
  num_classes: int = 0,
  ambient_timestep: int = 0,
  ambient_key: jax.Array | None = None,
) -> train_step.LossFn:
  """Training loss: t and eps drawn per example; [B] numbers.

  Args:
    apply: (params, x_t, t, labels, dropout_keys=) -> what a net puts out.
    schedule: noise schedule.
    prediction_type: of the net.
    weighting: of timesteps.
    label_dropout: share of labels that are replaced in training.
    null_label: what replaces them, of one example; None never does.
    label_noise: share of labels that any class replaces in training.
    num_classes: classes there are.
    ambient_timestep: above it, images carry one noise (`diffusion.ambient`); 0
      never.
    ambient_key: of that noise.
  """

  def loss_fn(
    params: Any, batch: train_step.Batch, keys: jax.Array
  ) -> jax.Array:
    split = jax.vmap(lambda key: jax.random.split(key, 4))(keys)
    t = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(schedule)))(
      split[:, 0]
    )
    eps = jax.vmap(lambda key: jax.random.normal(key, batch.x0.shape[1:]))(
      split[:, 1]
    )
    labels = batch.labels
    if labels is not None and label_noise:
      labels = jax.vmap(
        lambda key, label: jnp.where(
          jax.random.bernoulli(jax.random.fold_in(key, 0), label_noise),
          jax.random.randint(jax.random.fold_in(key, 1), (), 0, num_classes),
          label,
        )
      )(jax.vmap(lambda key: jax.random.fold_in(key, 4))(keys), labels)
    if labels is not None and null_label is not None:
      dropped = jax.vmap(lambda key: jax.random.bernoulli(key, label_dropout))(
        split[:, 2]
      )
      null = jnp.broadcast_to(
        jnp.asarray(null_label, labels.dtype), labels.shape
      )
      dropped = dropped.reshape(-1, *(1,) * (labels.ndim - 1))
      labels = jnp.where(dropped, null, labels)

    def predict_fn(x_t: jax.Array, t: jax.Array, cond: Any) -> Any:
      return apply(params, x_t, t, cond, dropout_keys=split[:, 3])

    x0, weight = batch.x0, jnp.ones(len(t))
    if ambient_timestep:
      assert ambient_key is not None
      fixed = ambient.fixed_noise(ambient_key, x0)
      x0, eps, weight = ambient.carried(
        schedule, x0, eps, t, fixed, ambient_timestep
      )
    return weight * losses.denoising_loss(
      predict_fn,
      x0,
      t,
      eps,
      labels,
      schedule=schedule,
      prediction_type=prediction_type,
      weighting=weighting,
    )

  return loss_fn
