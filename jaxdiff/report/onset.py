"""onset.csv and onset.html: when memorisation begins, by the size of the data.

"Why Diffusion Models Don't Memorize" (Bonnaire et al. 2025) finds that the step
grows in proportion to the number n of training images, while samples become
good at a step that hardly depends on it: a rule for when to stop. They count
samples that are copies; here it is any metric of steps.csv, at first the share
of training images extracted, which has to be drawn: with few samples an image
it is small whatever was memorised. Of runs that differ in n, each attacked at
every checkpoint:

(1)  a, b    the last step up to which a metric is surely at most a level, and
             the first at which it is surely above
(2)  step    the last one at most at the level before the first one above, and
             that one: their geometric mean
(3)  slope   least squares of log step on log n; 1 is in proportion

"Surely" is by the interval of newly trained models, at each checkpoint by
itself. The slope's range is that of every choice of steps between a and b.
"""

from collections.abc import Iterator
import dataclasses

from etils import epath
import numpy as np
import pandas as pd

from jaxdiff import inputs, schema
from jaxdiff.report import figures_of_runs, parts, sweep
from jaxdiff.runs import files, layout

COLUMNS = ('run', 'images', 'samples', 'step', 'low', 'high', 'passes')
# What runs may differ in beside the number of images, and keys that are free:
# what is no part of a step of training, nor of how it is attacked.
_MAY = (
  'name', 'data.num_examples', 'num_models', 'train.checkpoint_every',
  'train.log_every', 'train.max_to_keep', 'train.stop_at',
)  # fmt: skip
# Of a slope: logarithms of whole steps are rounded.
_ROUNDING = 1e-9
# Free, and yet weights, or the images, follow from it.
_NOT_FREE = ('model.init_from', 'data.path')
# Kinds of data that are the same wherever they lie.
_KNOWN = ('cifar10', 'fashion_mnist')


@dataclasses.dataclass(frozen=True)
class Slope:
  """Equation (3).

  Attributes:
    value: of the steps of (2).
    low: the least that steps between a and b have.
    high: the largest.
  """

  value: float
  low: float
  high: float


def of_steps(table: pd.DataFrame, level: float) -> tuple[float, float, float]:
  """Equations (1) and (2): a, the step, and b.

  Args:
    table: step (rising), value, low and high of one metric.
    level: at which memorisation begins.

  Raises:
    ValueError: if it had begun at the first step, or never did.
  """
  steps = table['step'].to_numpy(float)
  value, low, high = (
    table[name].to_numpy(float) for name in ('value', 'low', 'high')
  )
  # An interval of other resamples may end before the value.
  low, high = np.minimum(low, value), np.maximum(high, value)
  above = np.flatnonzero(value > level)
  if not len(above):
    raise ValueError(
      f'it never is above {level:g} up to step {steps[-1]:.0f}: train longer'
    )
  if above[0] == 0:
    raise ValueError(
      f'it is above {level:g} at step {steps[0]:.0f}, the first that was kept: '
      'train with a smaller train.checkpoint_every, or ask for a larger --level'
    )
  first = above[0]
  # Without an interval, of two models say, nothing is sure.
  begun = np.flatnonzero(low > level)
  not_yet = np.flatnonzero(~(high <= level))[0]
  return (
    float(steps[not_yet - 1]) if not_yet else 0.0,
    float(np.sqrt(steps[first - 1] * steps[first])),
    float(steps[begun[0]]) if len(begun) else np.inf,
  )


def slope(table: pd.DataFrame) -> Slope:
  """Equation (3).

  Args:
    table: COLUMNS, of two sizes at least.
  """
  x = np.log(table['images'].to_numpy(float))
  weight = (x - x.mean()) / np.square(x - x.mean()).sum()
  with np.errstate(divide='ignore'):
    step, low, high = (
      np.log(table[name].to_numpy(float)) for name in ('step', 'low', 'high')
    )
  # Of a size in the middle nothing but rounding may be left.
  some = np.abs(weight) > 1e-9 * np.abs(weight).max()

  def along(y: np.ndarray) -> float:
    return float((weight[some] * y[some]).sum())

  return Slope(
    value=along(step),
    low=along(np.where(weight > 0.0, low, high)),
    high=along(np.where(weight > 0.0, high, low)),
  )


def onsets(
  runs: dict[str, layout.Run], metric: str, level: float
) -> pd.DataFrame:
  """COLUMNS, a row a run, by rising size.

  Args:
    runs: attacked at every checkpoint, by name.
    metric: of steps.csv.
    level: at which memorisation begins.

  Raises:
    InputError: naming the run, and what is wrong with it.
  """
  rows = []
  for name, run in runs.items():
    table = files.read_csv(run.steps_table)
    part = table[table['metric'] == metric].sort_values('step')
    if part.empty:
      known = ', '.join(dict.fromkeys(table['metric']))
      raise inputs.InputError(
        f'--metric: {name} has no {inputs.one_line(metric, 60)}; '
        f'there is {known}'
      )
    try:
      low, step, high = of_steps(part, level)
    except ValueError as error:
      raise inputs.InputError(f'--run={name}: {metric}: {error}') from error
    # Captions of one image, and its copies, are rows of their own.
    images = files.read_csv(run.examples)['image'].nunique() // 2
    config = files.read_json(run.config)
    passes = step * config['train']['batch_size'] / images
    samples = config['num_samples'] / images
    rows.append((name, images, samples, step, low, high, passes))
  out = pd.DataFrame(rows, columns=COLUMNS)
  if out['images'].nunique() < len(out):
    raise inputs.InputError('--run: two are of equally many images')
  return out.sort_values('images', ignore_index=True)


def check(runs: dict[str, layout.Run]) -> None:
  """Raises InputError for runs that say nothing of the size of the data."""
  if len(runs) < 2:
    raise inputs.InputError('--run: name two runs at least, three for a line')
  seen, raw = {}, {}
  for name, run in runs.items():
    if not run.steps_table.exists():
      raise inputs.InputError(
        f'--run={name}: {inputs.name_of(str(run.path))} has no steps.csv: '
        'launch.attack_checkpoints writes it'
      )
    with inputs.reading(run.config, 'is damaged'):
      raw[name] = schema.renamed(files.read_json(run.config))
      seen[name] = schema.flat(raw[name])
    if 'num_samples' not in seen[name]:
      raise inputs.InputError(
        f'--run={name}: its samples are by prompt; here they are of a model'
      )
  first = next(iter(seen))
  free = {
    key for key, what in schema.KEYS[schema.kind_of(raw[first])].items()
    if what.free and key not in _NOT_FREE
  }  # fmt: skip
  for name, config in seen.items():
    both = config, seen[first]
    may = {*_MAY, *free}
    if config.get('data.name') in _KNOWN:
      may.add('data.path')
    if all(_ends_alone(each) for each in both):
      may.add('train.num_steps')
    differ = [
      key for key in sorted(config.keys() | seen[first].keys())
      if config.get(key) != seen[first].get(key) and key not in may
    ]  # fmt: skip
    if differ:
      raise inputs.InputError(
        f'--run: {first} and {name} differ in {", ".join(differ)}, and not in '
        'the number of images alone'
      )


def _ends_alone(config: dict) -> bool:
  """Whether train.num_steps changes no step before the last."""
  return (
    config['train.decay'] != 'cosine'
    and config.get('train.warmup_steps', 0) < config['train.num_steps']
    and not config.get('private.epsilon')
  )


def in_words(
  table: pd.DataFrame, found: Slope, metric: str, level: float
) -> Iterator[str]:
  """Sentences that follow from the numbers.

  Args:
    table: COLUMNS.
    found: its slope.
    metric: what is looked at.
    level: at which memorisation begins.
  """
  yield (
    f'The step at which “{metric}” is first above {level:g} grows as the '
    'number of training images to the power '
    f'{found.value:.2f} (steps between the '
    f'ends allow {found.low:.2f} to {found.high:.2f}).'
  )
  if not np.isfinite([found.low, found.high]).all():
    yield (
      'One end is open: some checkpoint is not surely below, or none surely '
      'above. More models, or more checkpoints, would close it.'
    )
  elif found.low <= 1.0 + _ROUNDING and found.high >= 1.0 - _ROUNDING:
    yield (
      'That agrees with growth in proportion: about '
      f'{table["passes"].min():.3g} to {table["passes"].max():.3g} passes '
      'through the images.'
    )
  else:
    slower = found.high < 1.0 - _ROUNDING
    yield (
      f'That is surely {"slower" if slower else "faster"} than in proportion.'
    )


def write(
  runs: dict[str, layout.Run], metric: str, level: float, folder: epath.Path
) -> epath.Path:
  """Writes onset.csv and onset.html; returns the page.

  Args:
    runs: attacked at every checkpoint, by name.
    metric: of steps.csv.
    level: at which memorisation begins.
    folder: where to.

  Raises:
    InputError: if the runs say nothing of the size of the data.
  """
  check(runs)
  table = onsets(runs, metric, level)
  found = slope(table)
  files.write_csv(folder / 'onset.csv', table)
  courses = {
    name: files.read_csv(runs[name].steps_table) for name in table['run']
  }
  ends = tuple(sweep.REFERENCES.values())
  quality = [
    m for m in dict.fromkeys(courses[table['run'][0]]['metric'])
    if m.endswith(ends)
    and all(m in set(course['metric']) for course in courses.values())
  ]  # fmt: skip
  text = parts.render(
    'onset.html.jinja',
    metric=metric,
    level=f'{level:g}',
    said=list(in_words(table, found, metric, level)),
    figure=parts.svg_url(
      figures_of_runs.onset(table, courses, metric, level, quality[-1:])
    ),
    quality=bool(quality),
    rows=table.assign(
      high=[f'{x:.0f}' if np.isfinite(x) else '-' for x in table['high']]
    ).to_dict('records'),
  )
  files.write(folder / 'onset.html', text.encode('utf-8', 'backslashreplace'))
  return folder / 'onset.html'
