"""What follows from the images that were given away.

Made from stored neighbours and matches: how many more there are
(`extrapolation`), of how many training images each is a copy (`eidetic`),
whether models agree (`overlap`), which classes they belong to, and what a
person who looked at them says.
"""

import io

import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.attacks.extraction import eidetic, extrapolation, overlap
from jaxdiff.attacks.extraction import evaluate as extraction_evaluate
from jaxdiff.attacks.extraction import hits as hits_lib
from jaxdiff.metrics import intervals
from jaxdiff.runs import layout

_VERDICTS = {
  '1': 1, 'yes': 1, 'true': 1, '0': 0, 'no': 0, 'false': 0,
}  # fmt: skip


def check_other(other: layout.Run, fingerprint: str) -> None:
  """Raises InputError if a run cannot be compared with: other images, none."""
  if not other.extraction_matches.exists():
    raise inputs.InputError(
      f'extraction.other_run: {other.path} holds no finished audit'
    )
  with inputs.reading(other.provenance, 'extraction.other_run: is damaged'):
    theirs = layout.read_json(other.provenance)['data_sha256']
  if theirs != fingerprint:
    raise inputs.InputError(
      f'extraction.other_run: {other.path} was made from other images than '
      'data.name gives (SHA-256 differs): overlap means nothing'
    )


def analyse(plan: extraction_evaluate.ExtractionPlan, run: layout.Run) -> None:
  """Reads stored neighbours and matches; writes the tables named below."""
  groups = plan.groups
  num_groups = int(groups.max()) + 1
  rules = extraction_evaluate.rules_of(run)
  trained_on = np.zeros((len(plan.keep), num_groups), bool)
  for own, keep in zip(trained_on, plan.keep, strict=True):
    own[groups[keep]] = True
  further, shared, classes = [], [], []
  for setting in plan.settings:
    if (setting, 0) not in rules:
      continue
    # Hits of every image, of all samples of a model and of their first half.
    hits = np.zeros((2, len(plan.keep), num_groups), int)
    for model in range(len(plan.keep)):
      found = extraction_evaluate.neighbours_of(plan, run, model)
      by_sample = hits_lib.hit_by_sample(found, groups, *rules[setting, model])
      group = by_sample['training']
      for own, part in zip(
        hits[:, model], (group, group[: len(group) // 2]), strict=True
      ):
        own += np.bincount(part[part >= 0], minlength=num_groups)
      if plan.classes is not None:
        classes.append(_by_class(plan, run, setting, model, by_sample))
    for target, own, models in (
      *(
        (f'model-{model:03d}', hits[:, model], [model])
        for model in range(len(plan.keep))
      ),
      ('union', hits.sum(axis=1), range(len(plan.keep))),
    ):
      total = plan.num_samples * len(models)
      num_images = int(trained_on[models].any(axis=0).sum())
      rows = extrapolation.table(*own, total, num_images)
      rows.insert(0, 'setting', setting)
      rows.insert(1, 'target', target)
      further.append(rows.assign(num_samples=total, num_images=num_images))
    shared.append(_overlap(plan, setting, hits[0] > 0, trained_on, groups))
  layout.write_csv(run.extraction_extrapolation, pd.concat(further))
  layout.write_csv(run.extraction_overlap, pd.concat(shared))
  if classes:
    layout.write_csv(run.extraction_classes, _sum_classes(classes))
  matches = layout.read_csv(run.extraction_matches)
  layout.write_csv(run.extraction_eidetic, _eidetic(plan, matches))
  if run.annotations.exists():
    said = read_annotations(run, len(plan.keep), plan.num_samples)
    layout.write_csv(
      run.extraction_annotated, annotated(said, matches, list(plan.settings))
    )
  elif run.extraction_annotated.exists():
    # Verdicts that were taken back.
    run.extraction_annotated.unlink()


def _overlap(
  plan: extraction_evaluate.ExtractionPlan,
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
    one = pd.DataFrame([{'kind': 'runs', 'first': -1, 'second': -1, **between}])
    rows = pd.concat([rows, one], ignore_index=True) if len(rows) else one
  rows.insert(0, 'setting', setting)
  return rows


def _of_other_run(
  other: layout.Run, setting: str, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """What models of another run give away and trained on: bool [J, G] each."""
  blocks = other.model_blocks(0, 1)
  parts = [layout.read_npy(block.keep) for block in blocks]
  for block, part in zip(blocks, parts, strict=True):
    if part is None:
      raise inputs.InputError(
        f'extraction.other_run: {block.keep} is missing or torn: run its audit '
        'again'
      )
  keep = np.concatenate(parts)
  matches = layout.read_csv(other.extraction_matches)
  own = matches[
    (matches['setting'] == setting) & (matches['half'] == 'training')
  ]
  hit, trained_on = np.zeros((2, len(keep), int(groups.max()) + 1), bool)
  hit[own['model'], groups[own['index']]] = True
  for row, mask in zip(trained_on, keep, strict=True):
    row[groups[mask]] = True
  return hit, trained_on


def _by_class(
  plan: extraction_evaluate.ExtractionPlan,
  run: layout.Run,
  setting: str,
  model: int,
  by_sample: dict[str, np.ndarray],
) -> pd.DataFrame:
  """Samples, samples that hit, and distinct images hit, by label asked for."""
  labels = layout.read_rows(
    run, run.samples, model, plan.num_samples, plan.block_size, ('labels',)
  )['labels']
  rows = []
  for label in np.unique(labels):
    asked = labels == label
    own = {half: group[asked] for half, group in by_sample.items()}
    rows.append(
      {
        'setting': setting,
        'label': int(label),
        'num_samples': int(asked.sum()),
        'hits': int((own['training'] >= 0).sum()),
        **{
          name: len(np.unique(own[half][own[half] >= 0]))
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
  plan: extraction_evaluate.ExtractionPlan, matches: pd.DataFrame
) -> pd.DataFrame:
  """setting, model, index, copies: one row an image that a model gives away."""
  rows = []
  found = matches[matches['half'] == 'training']
  for (setting, model), own in found.groupby(['setting', 'model'], sort=False):
    references = plan.images[plan.keep[model]]
    copies = eidetic.counts(
      plan.images[own['index']],
      references,
      plan.eidetic_distance,
      plan.eidetic_shift,
    )
    rows.append(
      pd.DataFrame(
        {
          'setting': setting,
          'model': model,
          'index': own['index'].to_numpy(),
          'copies': copies,
          'delta': plan.eidetic_distance,
        }
      )
    )
  names = ['setting', 'model', 'index', 'copies', 'delta']
  return pd.concat(rows) if rows else pd.DataFrame(columns=names)


def read_annotations(
  run: layout.Run, num_models: int, num_samples: int
) -> pd.DataFrame:
  """annotations.csv, checked: model, sample, memorised (0 or 1).

  Args:
    run: that the person looked at.
    num_models: of it.
    num_samples: of each model.

  Raises:
    InputError: naming the line that is not what it should be.
  """
  path = run.annotations
  content = inputs.read_bytes(path, most=2**26)
  with inputs.reading(path, 'no table in UTF-8'):
    said = pd.read_csv(
      io.BytesIO(content),
      dtype=str,
      keep_default_na=False,
      encoding='utf-8-sig',
    )
  said.columns = [str(name).strip() for name in said.columns]
  need = ['model', 'sample', 'memorised']
  if not set(need) <= set(said.columns) or said.columns.has_duplicates:
    raise inputs.InputError(
      f'{path} has columns {inputs.one_line(", ".join(said.columns))}; it '
      'needs model, sample and memorised (yes or no), each once'
    )
  said = said[need].apply(lambda column: column.str.strip())

  def refuse(bad: pd.Series, column: str, wanted: str) -> None:
    if bad.any():
      place = int(np.flatnonzero(bad)[0])
      raise inputs.InputError(
        f'{path} line {place + 2}: {column} is '
        f'{inputs.one_line(said[column].iloc[place])!r}; say {wanted}'
      )

  for column, most in (('model', num_models), ('sample', num_samples)):
    whole = said[column].str.fullmatch(r'\d{1,9}')
    refuse(~whole.astype(bool), column, 'its number')
    refuse(
      said[column].astype(np.int64) >= most, column, f'one of 0 to {most - 1}'
    )
  verdict = said['memorised'].str.lower().map(_VERDICTS)
  refuse(verdict.isna(), 'memorised', 'yes or no')
  said = said.assign(
    model=said['model'].astype(np.int64),
    sample=said['sample'].astype(np.int64),
    memorised=verdict.astype(int),
  )
  if said.duplicated(['model', 'sample']).any():
    raise inputs.InputError(f'{path} has two verdicts on one sample: leave one')
  return said


def annotated(
  said: pd.DataFrame, matches: pd.DataFrame, settings: list[str]
) -> pd.DataFrame:
  """A person's verdicts beside the automatic ones, most convincing first.

  Columns: setting, model, sample, index, ratio (empty where the filter found
  nothing), extracted (the filter's verdict), memorised (the person's).

  Args:
    said: of `read_annotations`.
    matches: of the run.
    settings: of extraction.
  """
  found = matches[matches['half'] == 'training']
  out = []
  for setting in settings:
    own = found[found['setting'] == setting]
    rows = said.merge(
      own[['model', 'sample', 'index', 'ratio']],
      on=['model', 'sample'],
      how='left',
    )
    rows = rows.assign(
      setting=setting,
      extracted=rows['index'].notna().astype(int),
      index=rows['index'].fillna(-1).astype(int),
    ).sort_values('ratio', kind='stable')
    out.append(rows)
  names = ['setting', 'model', 'sample', 'index', 'ratio', 'extracted',
           'memorised']  # fmt: skip
  return pd.concat(out)[names]
