"""What the values of a config may be, said before any long work.

What concerns one stage alone is beside its plan, in `plans/stages/`; one kind
of subject, in `plans/kinds/`.
"""

from collections.abc import Iterable, Sequence
import difflib
import functools
import hashlib
import json
import math

from absl import logging
import ml_collections
import numpy as np

from jaxdiff import inputs, schema
from jaxdiff.data import datasets, splits
from jaxdiff.defences import accounting
from jaxdiff.diffusion import losses, processes, samplers, schedules
from jaxdiff.interop import clip_tokenizer

# Members of a tuple that anybody needs.
_LONGEST = 4096


def check_keys(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for a key that is missing, unknown or of another kind."""
  given, keys = schema.flat(c), schema.KEYS[schema.kind_of(c)]
  for name in given.keys() - keys.keys():
    near = difflib.get_close_matches(name, keys, n=1, cutoff=0.5)
    hint = f'; did you mean {near[0]}?' if near else ''
    raise ValueError(f'{name}: no such key{hint}')
  for name, key in keys.items():
    need(name in given, f'{name}: is missing from the config')
    value, kind = given[name], type(key.default)
    shown = inputs.one_line(repr(value), 60)
    if kind is int:
      need(type(value) is int, f'{name}: {shown} must be a whole number')
    elif kind is float:
      need(
        type(value) in (int, float) and math.isfinite(value),
        f'{name}: {shown} must be a finite number',
      )
    elif kind is tuple:
      need(
        isinstance(value, tuple | list) and len(value) <= _LONGEST,
        f'{name}: {shown} must be a tuple, like (1, 2), of at most {_LONGEST}',
      )
    else:
      words = {str: 'text', bool: 'True or False'}[kind]
      need(type(value) is kind, f'{name}: {shown} must be {words}')


def check_ranges(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for a number outside its range."""
  given = schema.flat(c)
  for name, key in schema.KEYS[schema.kind_of(c)].items():
    if key.low is not None and not key.low <= given[name] <= key.high:
      raise ValueError(
        f'{name}: {given[name]} must be within {key.low} .. {key.high}'
      )


def digest_of_texts(texts: Sequence[str]) -> str:
  """SHA-256 of a list of texts."""
  text = json.dumps(list(texts)).encode()
  return hashlib.sha256(text).hexdigest()


def warn_of_length(
  tokenizer: clip_tokenizer.ClipTokenizer, what: str, texts: Sequence[str]
) -> None:
  """Says how many texts are cut, as pipelines cut them."""
  cut = tokenizer.cut(texts)
  if cut:
    logging.warning(
      '%d of %d %s have more than %d tokens: what is beyond is not seen',
      cut, len(texts), what, tokenizer.length - 2,
    )  # fmt: skip


def need(holds: bool, message: str) -> None:
  """Raises ValueError unless something holds."""
  if not holds:
    raise ValueError(message)


def need_whole_numbers(key: str, value) -> None:
  """Raises ValueError unless it is a tuple of whole numbers from 1."""
  need(
    len(value) > 0
    and all(type(number) is int and 1 <= number <= 16384 for number in value),
    f'{key}: {value!r} must be whole numbers from 1, like (16, 32)',
  )


def check_blocks(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for samples that do not divide into blocks."""
  need(
    c.num_samples % c.sample.block_size == 0,
    f'num_samples: {c.num_samples} must be a multiple of sample.block_size, '
    f'{c.sample.block_size}',
  )
  need(
    c.sample.block_size % c.sample.batch_size == 0,
    f'sample.block_size: {c.sample.block_size} must be a multiple of '
    f'sample.batch_size, {c.sample.batch_size}',
  )


def one_of(c: ml_collections.ConfigDict, key: str, known: Iterable) -> None:
  """Raises ValueError unless a key's value is known."""
  value = functools.reduce(getattr, key.split('.'), c)
  need(value in known, f'{key}: no {value!r}; there is {", ".join(known)}')


def check_levels(
  c: ml_collections.ConfigDict, down: Sequence[str], up: Sequence[str]
) -> None:
  """Raises ValueError for levels of a U-Net that make no sense.

  Args:
    c: the config.
    down: kinds of blocks on the way down.
    up: likewise, up.
  """
  channels = tuple(c.model.block_out_channels)
  need_whole_numbers('model.block_out_channels', channels)
  need(
    len(channels) <= 16,
    f'model.block_out_channels: {len(channels)} levels are more than any image '
    'has',
  )
  for key, known in (('down_block_types', down), ('up_block_types', up)):
    types = tuple(c.model[key])
    need(
      len(types) == len(channels) and not set(types) - set(known),
      f'model.{key}: {types}; name one of {", ".join(known)} for each of the '
      f'{len(channels)} block_out_channels',
    )
  for width in channels:
    for key in ('norm_num_groups', 'attention_head_dim'):
      need(
        not c.model[key] or width % c.model[key] == 0,
        f'model.{key}: {c.model[key]} does not divide {width} of '
        'model.block_out_channels',
      )


def trained_devices(
  c: ml_collections.ConfigDict,
) -> tuple[int, Sequence[int]]:
  """Models that are trained together, and sizes of batches."""
  sizes = {x: c[x].batch_size for x in ('train', 'sample', 'signals')}
  if 'private' in c and c.private.epsilon:
    # Of whose batches rows are a multiple of this.
    sizes['train'] = accounting.MULTIPLE
  return min(c.num_models, c.train.models_per_block), list(sizes.values())


def check_training(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for noise and training that make no sense."""
  for key, known in (
    ('train.weighting', losses.WEIGHTINGS),
    ('diffusion.prediction_type', processes.PREDICTION_TYPES),
    ('diffusion.beta_schedule', schedules.BETA_SCHEDULES),
    ('sample.sampler', samplers.SAMPLERS),
  ):
    one_of(c, key, known)
  need(
    c.sample.guidance_scale == 1.0 or c.train.label_dropout > 0.0,
    'sample.guidance_scale: guidance needs a net trained with '
    'train.label_dropout above 0',
  )
  need(
    c.diffusion.beta_start <= c.diffusion.beta_end,
    f'diffusion.beta_start: {c.diffusion.beta_start} is above diffusion.'
    f'beta_end, {c.diffusion.beta_end}',
  )
  check_steps(c)


def check_steps(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for steps, checkpoints and splits that make no sense."""
  for key, known in (
    ('train.decay', ('constant', 'cosine')),
    ('model.dtype', ('float32', 'bfloat16')),
    ('split', splits.SPLITS),
  ):
    one_of(c, key, known)
  need(
    c.train.checkpoint_every % c.train.log_every == 0,
    f'train.checkpoint_every: {c.train.checkpoint_every} must be a multiple '
    f'of train.log_every, {c.train.log_every}',
  )
  need(
    c.train.stop_at <= c.train.num_steps,
    f'train.stop_at: {c.train.stop_at} is above train.num_steps, '
    f'{c.train.num_steps}',
  )
  need(
    c.train.num_steps * c.train.batch_size < 2**32,
    'train.num_steps x train.batch_size must stay below 2^32',
  )
  need(
    c.train.max_to_keep != 1,
    'train.max_to_keep: 1 would leave no checkpoint to fall back on; at least '
    '2, or 0 for all',
  )


# Groups that a split needs: two on each side leave nothing to compare.
FEWEST_GROUPS = 8


def check_size(c: ml_collections.ConfigDict, dataset: datasets.Dataset) -> None:
  """Raises ValueError for images that nothing can be learned from."""
  need(
    len(dataset) >= FEWEST_GROUPS,
    f'data.num_examples: {len(dataset)} examples are too few; at least '
    f'{FEWEST_GROUPS}',
  )


def check_groups(dataset: datasets.Dataset) -> None:
  """Raises ValueError for groups that no split can keep together."""
  groups = np.bincount(dataset.group)
  groups = groups[groups > 0]
  joined = len(dataset) - len(np.unique(dataset.image))
  need(
    len(groups) >= FEWEST_GROUPS and groups.max() <= len(dataset) / 2,
    f'data.name: {len(dataset)} examples form {len(groups)} groups, the '
    f'largest of {groups.max()} ({joined} are near-duplicates of others, by '
    'extraction.duplicate_distance); groups stay together, and a split needs '
    f'{FEWEST_GROUPS} of them, none with more than half of the examples',
  )


def labels_of(wanted, dataset: datasets.Dataset) -> tuple[int, ...]:
  """Labels of classes that are asked for by name or number.

  Where all names are whole numbers, a number is a name.

  Raises:
    ValueError: for a class that there is not.
  """
  names = dataset.class_names
  out = []
  for label in wanted:
    need(
      type(label) in (int, str),
      f'sample.classes: {label!r} is neither a name nor a number',
    )
    known = str(label) in names
    if (
      not known
      and type(label) is int
      and not all(name.lstrip('-').isdigit() for name in names)
    ):
      need(
        0 <= label < len(names),
        f'sample.classes: no label {label}; there are 0 .. {len(names) - 1}',
      )
      out.append(label)
      continue
    shown = ', '.join(names[:10]) + (', ...' if len(names) > 10 else '')
    need(
      known,
      f'sample.classes: no class {label!r}; there is {inputs.one_line(shown)}',
    )
    out.append(names.index(str(label)))
  return tuple(out)
