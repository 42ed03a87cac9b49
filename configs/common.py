"""What every experiment starts from: the defaults of all keys.

A config is plain Python without JAX. Any key can be overridden on the command
line: `--config.train.num_steps=500`. Keys are defined in jaxdiff/schema/.
"""

import ml_collections

from jaxdiff import schema

# Every kind of signal, for whom wants the whole membership suite.
ALL_KINDS = (
  'loss', 'secmi', 'pia', 'pian', 'pfami', 'sima', 'rediffuse', 'gsa',
)  # fmt: skip


def parse_arg(arg: str | None, **defaults):
  """Reads the part behind the colon of `--config=configs/x.py:a,b=3`.

  Args:
    arg: comma-separated switches (`a` means `a=True`) and `name=value`.
    **defaults: every known name; a value is read as its default's type.

  Returns:
    ConfigDict of the defaults, updated.

  Raises:
    ValueError: for an unknown name.
  """
  options = ml_collections.ConfigDict(defaults)
  for item in filter(None, (arg or '').split(',')):
    name, _, value = item.partition('=')
    if name not in options:
      known = ', '.join(sorted(options)) or 'none'
      raise ValueError(f'config argument {name!r} is unknown; known: {known}')
    kind = type(options[name])
    if kind is bool:
      options[name] = value.lower() in ('', '1', 'true')
    else:
      options[name] = kind(value)
  return options


# Of prompts, every one; they are cheap beside what they save.
SCREENS = (
  'x0', 'dcs', 'wen_first', 'cosine', 'wen_trajectory', 'agreement', 'edges',
)  # fmt: skip


def get_defaults(kind: str = schema.ENSEMBLE) -> ml_collections.ConfigDict:
  """Defaults of every key; docs/configuration.md has their meaning.

  Args:
    kind: of subject that the config is of, one of `schema.GROUPS`.
  """
  c = ml_collections.ConfigDict()
  for group, (_, keys) in schema.GROUPS[kind].items():
    defaults = {name: key.default for name, key in keys.items()}
    if group:
      c[group] = ml_collections.ConfigDict(defaults)
    else:
      c.update(defaults)
  # A key with a typing error is refused, not added.
  return c.lock()


def add_every_attack(c: ml_collections.ConfigDict) -> None:
  """The paper's inpainting and canaries, and SIDE's budget, at full scale."""
  c.signals.kinds = ALL_KINDS
  c.signals.published = True
  c.inpainting.num_images = 13  # of each of 8 pairs: the paper's 100
  c.side.num_learned = 2**14
  c.side.num_samples = 2**14
  c.canaries.num_models = 3


def shrink_attacks(c: ml_collections.ConfigDict) -> None:
  """The same for minutes; what is left out stays so."""
  if c.inpainting.num_images:
    c.inpainting.num_images = 4
  c.inpainting.draws = 16
  c.inpainting.kept = 4
  c.inpainting.num_steps = 20
  c.inpainting.jump_length = 4
  c.inpainting.jump_n_sample = 3
  c.inpainting.loss_draws = 4
  c.inpainting.batch_size = 64
  c.side.num_learned = c.sample.block_size
  if c.side.num_samples:
    c.side.num_samples = c.sample.block_size
    c.num_samples = max(c.num_samples, 2 * c.sample.block_size)
  c.side.num_clusters = 16
  c.side.num_steps = 300
  if c.canaries.num_models:
    c.canaries.num_models = 2
  c.canaries.per_count = 2
  c.canaries.coins = 16
  c.canaries.pool = 128
  c.canaries.draws = 4


def shrink(c: ml_collections.ConfigDict) -> None:
  """The same experiment for minutes on two CPU cores: 6 tiny nets, 128 images.

  Levels, attention, sampler, schedule and losses stay; sizes and counts do not.
  """
  levels = len(c.model.block_out_channels)
  c.num_models = 6
  c.num_samples = 128
  c.split = 'paired'  # independent halves of 6 models leave gaps
  c.data.num_examples = 128
  c.model.block_out_channels = (16,) + (32,) * (levels - 1)
  c.model.layers_per_block = 1
  c.model.attention_head_dim = min(c.model.attention_head_dim, 16)
  if c.model.attn_norm_num_groups:
    c.model.attn_norm_num_groups = 8
  c.model.norm_num_groups = 8
  c.model.dtype = 'float32'
  c.train.num_steps = 400
  c.train.batch_size = 32
  c.train.learning_rate = 1e-3
  c.train.warmup_steps = min(c.train.warmup_steps, 50)
  c.train.ema_decay = 0.99
  c.train.models_per_block = 6
  c.train.log_every = 20
  c.train.checkpoint_every = 200
  c.sample.num_steps = 20
  c.sample.batch_size = 64
  c.sample.block_size = 128
  c.signals.timesteps = tuple(c.signals.timesteps)[2:7:2]
  c.membership.timestep = c.signals.timesteps[1]
  c.signals.draws = 2
  c.signals.batch_size = 64
  c.signals.block_size = 128
  c.membership.num_resamples = 200
  shrink_attacks(c)
