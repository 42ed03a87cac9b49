"""The smallest run that goes through everything: small nets on digits."""

import hashlib
import pathlib

import jax
import numpy as np

from configs import digits
from jaxdiff import plans as plans_lib
from jaxdiff.data import examples as examples_lib
from jaxdiff.runs import ensemble as ensemble_lib

# The smallest net that halves its images, for what one level is too few for.
TWO_LEVELS = {
  'model__block_out_channels': (8, 8),
  'model__down_block_types': ('DownBlock2D',) * 2,
  'model__up_block_types': ('UpBlock2D',) * 2,
}


def config(**overrides):
  """configs/digits.py shrunk; overrides by dotted key, `train__num_steps`."""
  c = digits.get_config()
  c.num_models = 8
  c.num_samples = 64
  c.data.num_examples = 64
  # Tracing and compiling are what a tiny run costs: as few layers as do.
  c.model.block_out_channels = (8,)
  c.model.layers_per_block = 1
  c.model.down_block_types = ('DownBlock2D',)
  c.model.up_block_types = ('UpBlock2D',)
  c.model.norm_num_groups = 4
  c.model.add_attention = False
  c.train.num_steps = 20
  c.train.batch_size = 16
  c.train.warmup_steps = 5
  c.train.decay = 'constant'
  c.train.learning_rate = 1e-3
  c.train.log_every = 5
  c.train.checkpoint_every = 10
  c.sample.num_steps = 4
  c.sample.batch_size = 32
  c.sample.block_size = 32
  c.signals.timesteps = (50, 100, 400)
  c.signals.draws = 2
  c.signals.batch_size = 32
  c.signals.block_size = 48
  c.membership.num_resamples = 50
  for key, value in overrides.items():
    *path, leaf = key.split('__')
    node = c
    for name in path:
      node = node[name]
    node[leaf] = value
  return c


def least(**overrides):
  """Two models and few of everything, for what is run many times."""
  fewer = {
    'num_models': 2, 'signals__timesteps': (100,), 'signals__draws': 1,
    'membership__timestep': 100, 'membership__num_resamples': 40,
  }  # fmt: skip
  return config(**fewer | overrides)


def paper(**overrides):
  """The same with every attack that a run may leave out."""
  further = {
    'num_models': 4,
    'inpainting__num_images': 2, 'inpainting__masks': ('left', 'random'),
    'inpainting__draws': 3, 'inpainting__kept': 2, 'inpainting__num_steps': 4,
    'inpainting__jump_length': 1, 'inpainting__jump_n_sample': 2,
    'inpainting__loss_draws': 2, 'inpainting__batch_size': 8,
    'side__num_samples': 32, 'side__num_learned': 32,
    'side__num_clusters': 4, 'side__num_steps': 20,
    'side__batch_size': 16, 'side__channels': (8, 8),
    'canaries__num_models': 2, 'canaries__counts': (1, 4),
    'canaries__per_count': 2, 'canaries__coins': 4, 'canaries__pool': 16,
    'canaries__draws': 2,
  }  # fmt: skip
  return config(**further | overrides)


def examples(images, keep, **changes) -> examples_lib.Examples:
  """Images without labels, each of its own, and who trained on which."""
  count = len(images)
  settings = {
    'labels': np.zeros(count, np.int32), 'num_classes': 1, 'cond': None,
    'group': np.arange(count), 'image': np.arange(count),
    'left_out': np.arange(len(keep)) // 2,
  }  # fmt: skip
  return examples_lib.Examples(images=images, keep=keep, **(settings | changes))


def ensemble(num_models: int, **changes) -> ensemble_lib.Ensemble:
  """Models of one block."""
  settings = {
    'seed': 0, 'num_models': num_models, 'models_per_block': num_models,
  }  # fmt: skip
  return ensemble_lib.Ensemble(**(settings | changes))


def plans(**overrides) -> plans_lib.Plans:
  return plans_lib.make(config(**overrides))


def random_params(plan, num_models: int):
  """A block of weights that all matter: fresh ones have layers of zeros."""
  one = jax.jit(plan.init_fn)(jax.random.key(0))
  leaves, tree = jax.tree.flatten(one)
  rng = np.random.default_rng(0)
  moved = [
    np.asarray(leaf)[None]
    + 0.1 * rng.standard_normal((num_models, *leaf.shape)).astype(np.float32)
    for leaf in leaves
  ]
  return jax.tree.unflatten(tree, moved)


def largest_difference(one, two) -> float:
  return max(
    float(np.abs(np.asarray(a) - np.asarray(b)).max())
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
  )


def digests(folder: pathlib.Path) -> dict[str, str]:
  """SHA-256 of every file, by its path in the folder."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path.name != 'run.lock'
  }
