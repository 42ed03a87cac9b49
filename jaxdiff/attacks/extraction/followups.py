"""What follows from the images that were given away.

Made from stored neighbours and matches: how many more there are
(`extrapolation`), of how many training images each is a copy (`eidetic`),
whether models agree (`overlap`), which classes they belong to, and what a
person who looked at them says.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.attacks.extraction import (
  annotations,
  eidetic,
  extrapolation,
  neighbours,
  overlap,
  paths,
)
from jaxdiff.attacks.extraction import evaluate as extraction_evaluate
from jaxdiff.attacks.extraction import hits as hits_lib
from jaxdiff.data import examples as examples_lib
from jaxdiff.metrics import intervals
from jaxdiff.runs import blocks as runs_blocks
from jaxdiff.runs import files, layout


def check_finished(other: layout.Run) -> None:
  """Raises InputError if a folder holds no audit to compare with."""
  if not paths.Paths(other).matches.exists():
    raise inputs.InputError(
      f'extraction.other_run: {other.path} holds no finished audit'
    )


def check_other(other: layout.Run, fingerprint: str) -> None:
  """Raises InputError if a run cannot be compared with: other images, none."""
  check_finished(other)
  if not other.model_blocks(0, 1):
    raise inputs.InputError(
      f'extraction.other_run: {other.path} trained no models: what these would '
      'have in common with them nobody can tell'
    )
  with inputs.reading(other.provenance, 'extraction.other_run: is damaged'):
    theirs = files.read_json(other.provenance)['data_sha256']
  if theirs != fingerprint:
    raise inputs.InputError(
      f'extraction.other_run: {other.path} was made from other images than '
      'data.name gives (SHA-256 differs): overlap means nothing'
    )


def analyse(plan: neighbours.ExtractionPlan, run: layout.Run) -> None:
  """Reads stored neighbours and matches; writes the tables named below."""
  groups = plan.examples.image
  num_groups = int(groups.max()) + 1
  rules = extraction_evaluate.rules_of(run, plan.near)
  trained_on = np.zeros((plan.examples.num_models, num_groups), bool)
  for seen, keep in zip(trained_on, plan.examples.keep, strict=True):
    seen[groups[keep]] = True
  further, shared, classes = [], [], []
  for setting in plan.settings:
    if (setting, 0) not in rules:
      continue
    # Hits of every image, of all samples of a model and of their first half.
    hits = np.zeros((2, plan.examples.num_models, num_groups), int)
    for model in range(plan.examples.num_models):
      found = neighbours.neighbours_of(plan, run, model)
      by_sample = hits_lib.hit_by_sample(found, groups, *rules[setting, model])
      group = by_sample['training']
      for count, part in zip(
        hits[:, model], (group, _half(plan, group)), strict=True
      ):
        count += np.bincount(part[part >= 0], minlength=num_groups)
      if plan.classes is not None:
        classes.append(_by_class(plan, run, setting, model, by_sample))
    for target, hits_of_target, models in (
      *(
        (f'model-{model:03d}', hits[:, model], [model])
        for model in range(plan.examples.num_models)
      ),
      ('union', hits.sum(axis=1), range(plan.examples.num_models)),
    ):
      total = plan.num_samples * len(models)
      num_images = int(trained_on[models].any(axis=0).sum())
      every, half = hits_of_target
      rows = extrapolation.table(every, half, total, num_images)
      rows.insert(0, 'setting', setting)
      rows.insert(1, 'target', target)
      further.append(rows.assign(num_samples=total, num_images=num_images))
    shared.append(_overlap(plan, setting, hits[0] > 0, trained_on, groups))
  files.write_csv(paths.Paths(run).extrapolation, pd.concat(further))
  files.write_csv(paths.Paths(run).overlap, pd.concat(shared))
  if classes:
    files.write_csv(paths.Paths(run).classes, _sum_classes(classes))
  matches = files.read_csv(paths.Paths(run).matches)
  copies = _eidetic(plan, matches)
  files.write_csv(paths.Paths(run).eidetic, copies)
  if len(np.unique(plan.examples.image)) < len(plan.examples):
    files.write_csv(
      paths.Paths(run).recall, recall(plan.examples, matches, plan.settings)
    )
  if plan.samples.names:
    files.write_csv(paths.Paths(run).named, _named(plan, run, matches, copies))
  if paths.Paths(run).annotations.exists():
    said = annotations.read_annotations(
      run, plan.examples.num_models, plan.num_samples
    )
    files.write_csv(
      paths.Paths(run).annotated,
      annotations.annotated(said, matches, list(plan.settings)),
    )
  elif paths.Paths(run).annotated.exists():
    # Verdicts that were taken back.
    paths.Paths(run).annotated.unlink()


def recall(
  examples: examples_lib.Examples,
  matches: pd.DataFrame,
  settings: Iterable[str],
) -> pd.DataFrame:
  """How many training images are given away, by their number of copies.

  Of an image that several models trained on, the share of them that give it
  away. The interval is exact for models of one pair, which share no image; with
  more it counts an image once, as if its models told nothing further.

  Args:
    examples: which model trained on which.
    matches: matches.csv.
    settings: of extraction.

  Returns:
    setting, copies, images, value, low, high.
  """
  rows = []
  for setting in settings:
    given_away = matches[
      (matches['setting'] == setting) & (matches['half'] == 'training')
    ]
    parts = []
    for model, keep in enumerate(examples.keep):
      index = given_away['index'][given_away['model'] == model]
      images, copies = np.unique(examples.image[keep], return_counts=True)
      found = np.isin(images, examples.image[index.to_numpy(int)])
      parts.append(
        pd.DataFrame({'image': images, 'copies': copies, 'found': found})
      )
    by_image = (
      pd.concat(parts)
      .groupby(['copies', 'image'])['found']
      .mean()
      .groupby('copies')
    )
    for copies, shares in by_image:
      total, count = float(shares.sum()), len(shares)
      low, high = intervals.binomial(round(total), count)
      rows.append((setting, copies, count, total / count, low, high))
  return pd.DataFrame(
    rows, columns=['setting', 'copies', 'images', 'value', 'low', 'high']
  )


def _named(
  plan: neighbours.ExtractionPlan,
  run: layout.Run,
  matches: pd.DataFrame,
  copies: pd.DataFrame,
) -> pd.DataFrame:
  """Matches by the names of their files, most convincing first."""
  source = files.read_csv(run.examples, dtype={'source': str})['source']
  table = matches.merge(
    copies[['setting', 'model', 'index', 'copies']],
    on=['setting', 'model', 'index'], how='left', validate='many_to_one',
  )  # fmt: skip
  names = np.array(plan.samples.names, dtype=object)
  return pd.DataFrame(
    {
      'setting': table['setting'],
      'half': table['half'],
      'rank': table.groupby(['setting', 'half']).cumcount() + 1,
      'image': source.to_numpy()[table['index']],
      'sample': names[table['sample']],
      'distance': table['distance'],
      'ratio': table['ratio'],
      'hits': table['hits'],
      'copies': table['copies'],
    }
  )


def _half(plan: neighbours.ExtractionPlan, samples: np.ndarray) -> np.ndarray:
  """The first half of the samples; every other, where they have an order."""
  if plan.samples.in_order:
    return samples[::2]
  return samples[: len(samples) // 2]


def _overlap(
  plan: neighbours.ExtractionPlan,
  setting: str,
  hit: np.ndarray,
  trained_on: np.ndarray,
  groups: np.ndarray,
) -> pd.DataFrame:
  """setting, kind ('models', 'runs'), and the columns of `overlap`."""
  rows = overlap.between_models(hit, trained_on)
  rows.insert(0, 'kind', 'models')
  if plan.other is not None:
    theirs = _of_other_run(plan.other, setting, groups)
    between = overlap.between_families(hit, trained_on, *theirs)
    # Models by number, runs by -1: all of them.
    both_runs = pd.DataFrame(
      [{'kind': 'runs', 'first': -1, 'second': -1, **between}]
    )
    rows = (
      pd.concat([rows, both_runs], ignore_index=True)
      if len(rows)
      else both_runs
    )
  rows.insert(0, 'setting', setting)
  return rows


def _of_other_run(
  other: layout.Run, setting: str, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """What models of another run give away and trained on: bool [J, G] each."""
  blocks = other.model_blocks(0, 1)
  parts = []
  for block in blocks:
    part = files.read_npy(block.keep)
    if part is None:
      raise inputs.InputError(
        f'{block.keep} is missing or torn: run its audit again'
      )
    parts.append(part)
  keep = np.concatenate(parts)
  matches = files.read_csv(paths.Paths(other).matches)
  hits_of_setting = matches[
    (matches['setting'] == setting) & (matches['half'] == 'training')
  ]
  hit, trained_on = np.zeros((2, len(keep), int(groups.max()) + 1), bool)
  hit[hits_of_setting['model'], groups[hits_of_setting['index']]] = True
  for row, mask in zip(trained_on, keep, strict=True):
    row[groups[mask]] = True
  return hit, trained_on


def between_runs(
  first: layout.Run, second: layout.Run
) -> list[tuple[str, dict[str, float]]]:
  """Overlap of what two finished runs on the same images give away.

  Args:
    first: one of them.
    second: the other.

  Returns:
    (setting, `overlap.between_families`) of every setting that both have.
  """
  groups = files.read_csv(first.examples)['image'].to_numpy(int)
  settings = [
    set(files.read_csv(paths.Paths(run).summary)['setting'])
    for run in (first, second)
  ]
  out = []
  for setting in sorted(settings[0] & settings[1]):
    of_runs = [_of_other_run(run, setting, groups) for run in (first, second)]
    out.append((setting, overlap.between_families(*of_runs[0], *of_runs[1])))
  return out


def _by_class(
  plan: neighbours.ExtractionPlan,
  run: layout.Run,
  setting: str,
  model: int,
  by_sample: dict[str, np.ndarray],
) -> pd.DataFrame:
  """Samples, samples that hit, and distinct images hit, by label asked for."""
  labels = runs_blocks.read_rows(
    run, run.samples, model, plan.num_samples, plan.block_size, ('labels',)
  )['labels']
  rows = []
  for label in np.unique(labels):
    asked = labels == label
    hit_of_label = {half: group[asked] for half, group in by_sample.items()}
    rows.append(
      {
        'setting': setting,
        'label': int(label),
        'num_samples': int(asked.sum()),
        'hits': int((hit_of_label['training'] >= 0).sum()),
        **{
          name: len(np.unique(hit_of_label[half][hit_of_label[half] >= 0]))
          for name, half in (
            ('extracted', 'training'), ('control_hits', 'control'),
          )
        },
      }
    )  # fmt: skip
  return pd.DataFrame(rows)


def _sum_classes(parts: list[pd.DataFrame]) -> pd.DataFrame:
  """Over models, with the share of samples that hit and its interval."""
  rows = pd.concat(parts).groupby(['setting', 'label'], sort=False).sum()
  rows = rows.reset_index()
  ends = [
    intervals.binomial(hits, count)
    for hits, count in zip(rows['hits'], rows['num_samples'], strict=True)
  ]
  return rows.assign(
    hit_rate=rows['hits'] / rows['num_samples'],
    low=[low for low, _ in ends],
    high=[high for _, high in ends],
  )


def _eidetic(
  plan: neighbours.ExtractionPlan, matches: pd.DataFrame
) -> pd.DataFrame:
  """setting, model, index, copies: one row an image that a model gives away."""
  rows = []
  found = matches[matches['half'] == 'training']
  for (setting, model), matches_of_model in found.groupby(
    ['setting', 'model'], sort=False
  ):
    references = plan.examples.images[plan.examples.keep[model]]
    copies = eidetic.counts(
      plan.examples.images[matches_of_model['index']],
      references,
      plan.eidetic_distance,
      plan.eidetic_shift,
    )
    rows.append(
      pd.DataFrame(
        {
          'setting': setting,
          'model': model,
          'index': matches_of_model['index'].to_numpy(),
          'copies': copies,
          'delta': plan.eidetic_distance,
        }
      )
    )
  names = ['setting', 'model', 'index', 'copies', 'delta']
  return pd.concat(rows) if rows else pd.DataFrame(columns=names)
