"""CLIP's text encoder (Radford et al. 2021), that of `CLIPTextModel`.

Attributes carry the names of transformers' `config.json`, parameters those of
its state dict.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

# transformers' `hidden_act`.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x),
  'gelu': functools.partial(nn.gelu, approximate=False),
}

# In configs whose `eos_token_id` is this, the end is the largest token.
LEGACY_EOS = 2


class Encoded(NamedTuple):
  """What pipelines take from a text.

  Attributes:
    last: [B, T, D] after the last norm.
    penultimate: [B, T, D] before the last layer, without a norm.
    pooled: [B, D], `last` at the end of the text.
    projected: [B, projection_dim], or None of an encoder without projection.
  """

  last: jax.Array
  penultimate: jax.Array
  pooled: jax.Array
  projected: jax.Array | None


class TextEncoder(nn.Module):
  """Tokens to vectors; each sees those before it."""

  vocab_size: int = 49_408
  hidden_size: int = 768
  intermediate_size: int = 3072
  num_hidden_layers: int = 12
  num_attention_heads: int = 12
  max_position_embeddings: int = 77
  hidden_act: str = 'quick_gelu'
  layer_norm_eps: float = 1e-5
  eos_token_id: int = LEGACY_EOS
  projection_dim: int | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: jax.Array) -> Encoded:
    """int32 [B, T], T <= max_position_embeddings.

    Raises:
      ValueError: if there are more tokens than positions, or the activation is
        not known.
    """
    if tokens.shape[1] > self.max_position_embeddings:
      raise ValueError(
        f'{tokens.shape[1]} tokens; there are {self.max_position_embeddings} '
        'positions (max_position_embeddings)'
      )
    if self.hidden_act not in ACTIVATIONS:
      raise ValueError(
        f'hidden_act {self.hidden_act!r}: one of {tuple(ACTIVATIONS)}'
      )
    embed = lambda number, name: nn.Embed(
      number, self.hidden_size, dtype=self.dtype, name=name
    )
    h = embed(self.vocab_size, 'embeddings_token_embedding')(tokens)
    positions = jnp.arange(tokens.shape[1])[None]
    h += embed(self.max_position_embeddings, 'embeddings_position_embedding')(
      positions
    )
    penultimate = h
    for number in range(self.num_hidden_layers):
      penultimate = h
      h = Layer(
        self.num_attention_heads,
        self.intermediate_size,
        self.hidden_act,
        self.layer_norm_eps,
        self.dtype,
        name=f'encoder_layers_{number}',
      )(h)
    last = nn.LayerNorm(
      self.layer_norm_eps, dtype=self.dtype, name='final_layer_norm'
    )(h)
    if self.eos_token_id == LEGACY_EOS:
      end = tokens.argmax(axis=1)
    else:
      end = (tokens == self.eos_token_id).argmax(axis=1)
    pooled = jnp.take_along_axis(last, end[:, None, None], axis=1)[:, 0]
    projected = None
    if self.projection_dim is not None:
      projected = nn.Dense(
        self.projection_dim,
        use_bias=False,
        dtype=self.dtype,
        name='text_projection',
      )(pooled)
    return Encoded(last, penultimate, pooled, projected)


class Layer(nn.Module):
  """Causal self-attention and two dense layers, each behind a norm."""

  num_heads: int
  features: int
  hidden_act: str
  epsilon: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    batch, length, width = x.shape
    norm = lambda name: nn.LayerNorm(self.epsilon, dtype=self.dtype, name=name)
    dense = lambda features, name: nn.Dense(
      features, dtype=self.dtype, name=name
    )
    h = norm('layer_norm1')(x)
    heads = (batch, length, self.num_heads, width // self.num_heads)
    q, k, v = (
      dense(width, f'self_attn_{name}_proj')(h).reshape(heads) for name in 'qkv'
    )
    h = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    x += dense(width, 'self_attn_out_proj')(h.reshape(x.shape))
    h = dense(self.features, 'mlp_fc1')(norm('layer_norm2')(x))
    return x + dense(width, 'mlp_fc2')(ACTIVATIONS[self.hidden_act](h))
