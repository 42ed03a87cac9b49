"""A small model of captions, as a run would export it: weights by their names.

Shared by the maker of its golden, which diffusers draws, and by the test.
"""

import jax
import jax.numpy as jnp

from jaxdiff.interop import clip_vocabulary, names, pipeline_folder
from jaxdiff.models.text_to_image import clip_text, unet
from tests.goldens import unet_configs

CAPTIONS = ('a red cat', 'a cat on a table', 'the moon at night', 'red moon')
SIZE = 8
GUIDANCE, STEPS = 4.0, 20


def filled(net, *shapes):
  """Parameters of a net: those of `unet_configs`, by diffusers' names."""
  like = jax.eval_shape(net.init, jax.random.key(0), *shapes)['params']
  return {'params': names.fill(like, unet_configs.weights(names.shapes(like)))}


def model() -> pipeline_folder.Pretrained:
  vocabulary = clip_vocabulary.learn(CAPTIONS, 20, 10)
  count = len(vocabulary.numbers)
  text = clip_text.TextEncoder(
    vocab_size=count, hidden_size=16, intermediate_size=32,
    num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=10,
    eos_token_id=count - 1,
  )  # fmt: skip
  denoiser = unet.ConditionalUNet(
    out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
    down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
    up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'), attention_head_dim=2,
    norm_num_groups=4,
  )  # fmt: skip
  array = jax.ShapeDtypeStruct
  return pipeline_folder.Pretrained(
    text_encoder=text,
    text_params=filled(text, array((1, 10), jnp.int32)),
    unet=denoiser,
    unet_params=filled(
      denoiser, array((1, SIZE, SIZE, 3), jnp.float32), array((1,), jnp.int32),
      {'tokens': array((1, 10, 16), jnp.float32)},
    ),
    vocabulary=vocabulary,
    sample_size=SIZE,
    diffusion={
      'beta_schedule': 'scaled_linear', 'num_train_timesteps': 1000,
      'beta_start': 0.00085, 'beta_end': 0.012, 'prediction_type': 'epsilon',
    },
  )  # fmt: skip
