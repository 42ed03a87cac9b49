"""Untargeted extraction: which training images do the samples give away?

Neighbours of every sample are found once and stored; tables are made from
them by the rules of `hits`, in two of three settings:

* `paper`: alpha 0.5, n = 50 (or all there are);
* `controlled`, where there is no other model to choose on: the paper's alpha or
  less, so that no control image is hit but those that samples are
  near-duplicates of; a near-duplicate is as good as a ratio of the paper's
  alpha, whatever lies beside it (`hits.compete`, `hits.controlled_alpha`). Of
  images that are hit by accident one is expected before the first of the
  control, where both sides are as many. With too few hits for the wanted
  precision, nothing is hit;
* `chosen`: the n and alpha that hit most on *other* models while they surely
  keep the wanted precision there, so that no target picks its own, with n a
  quarter of the training set at most. The paper's say little on a small set.

The n neighbours are n distinct images: of near-duplicates the nearest alone. By
the paper's rule to the letter (`neighbours='images'`), an image with n copies
in the training set has n equally near neighbours, and no sample can hit it,
though the most duplicated images are those that models give away first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxdiff.attacks.extraction import gallery, neighbours, paths, thresholds
from jaxdiff.attacks.extraction import hits as hits_lib
from jaxdiff.metrics import intervals
from jaxdiff.runs import files, layout


class Rule(NamedTuple):
  """What counts as a hit of one target."""

  num_neighbours: int
  alpha: float
  near: float = 0.0


def analyse(plan: neighbours.ExtractionPlan, run: layout.Run) -> None:
  """Reads stored neighbours; writes matches, summary, curve and gallery."""
  groups = plan.examples.image
  match_tables: list[pd.DataFrame] = []
  summary_tables: list[pd.DataFrame] = []
  curve_tables: list[pd.DataFrame] = []
  galleries: list[pd.DataFrame] = []
  for setting, choices in plan.settings.items():
    # One target at a time: all at once may not fit.
    counts = np.zeros(
      (len(choices), plan.examples.num_models, 2, len(hits_lib.ALPHAS)), int
    )
    natural = []
    for model, keep in enumerate(plan.examples.keep):
      found = neighbours.neighbours_of(plan, run, model)
      natural.append(thresholds.natural_duplicates(found, groups, plan.near))
      for place, n in enumerate(choices):
        hits = hits_lib.collect_hits(
          found,
          groups,
          keep,
          n,
          in_order=plan.samples.in_order,
          near=plan.near_of(setting),
        )
        counts[place, model] = hits.counts(hits_lib.ALPHAS)
    rules = _rules(plan, setting, counts, natural)
    if rules is None:
      continue
    tallies, hit = [], []
    for model, (keep, rule) in enumerate(
      zip(plan.examples.keep, rules, strict=True)
    ):
      found = neighbours.neighbours_of(plan, run, model)
      hits = hits_lib.collect_hits(
        found,
        groups,
        keep,
        rule.num_neighbours,
        in_order=plan.samples.in_order,
        near=rule.near,
      )
      tallies.append(hits_lib.tally(hits, rule.alpha))
      hit.append(hits.training < np.float32(rule.alpha))
      counts_of_rule = counts[choices.index(rule.num_neighbours), model]
      for tables, table in (
        (match_tables, gallery.matches(found, groups, *rule)),
        (galleries, gallery.gallery(found, *rule)),
        (
          curve_tables,
          pd.DataFrame(
            {
              'num_neighbours': rule.num_neighbours,
              'alpha': hits_lib.ALPHAS,
              'extracted': counts_of_rule[0],
              'control_hits': counts_of_rule[1],
            }
          ),
        ),
      ):
        table.insert(0, 'setting', setting)
        table.insert(1, 'model', model)
        tables.append(table)
    trained_on = plan.examples.keep.any(axis=0)
    union = hits_lib.union(hit, len(np.unique(groups[trained_on])))
    summary = _summary(plan, rules, tallies, union, setting == 'controlled')
    summary.insert(1, 'setting', setting)
    summary_tables.append(summary)
  for path, tables in (
    (paths.Paths(run).matches, match_tables),
    (paths.Paths(run).summary, summary_tables),
    (paths.Paths(run).curve, curve_tables),
    (paths.Paths(run).gallery, galleries),
  ):
    files.write_csv(path, pd.concat(tables, ignore_index=True))


def rules_of(run: layout.Run, near: float) -> dict[tuple[str, int], Rule]:
  """The rule of each setting and target, by the run's summary.

  Args:
    run: whose.
    near: of the plan that made it.
  """
  summary = files.read_csv(paths.Paths(run).summary)
  return {
    (row.setting, int(row.target.removeprefix('model-'))): Rule(
      int(row.num_neighbours),
      row.alpha,
      near if row.setting == 'controlled' else 0.0,
    )
    for row in summary.itertuples()
    if row.target.startswith('model-')
  }


def _rules(
  plan: neighbours.ExtractionPlan,
  setting: str,
  counts: np.ndarray,
  natural: Sequence[int],
) -> list[Rule] | None:
  """The rule of each target; None when there is no other model to choose on.

  Args:
    plan: whose settings.
    setting: one of them.
    counts: int [n, K, 2, A] at each n that it may take.
    natural: [K] near-duplicates of control images, for `controlled`.
  """
  choices, num_images = plan.settings[setting], plan.num_images
  if setting == 'paper':
    return [Rule(choices[0], neighbours.PAPER_ALPHA)] * plan.examples.num_models
  if setting == 'controlled':
    return [
      Rule(
        choices[0],
        thresholds.controlled_alpha(
          counted,
          num_training,
          num_control,
          plan.target_precision,
          neighbours.PAPER_ALPHA,
          known,
        ),
        plan.near_of(setting),
      )
      for counted, (num_training, num_control), known in zip(
        counts[0], num_images.tolist(), natural, strict=True
      )
    ]
  rules = [Rule(choices[-1], 0.0)] * plan.examples.num_models
  for number in np.unique(plan.examples.left_out):
    others = plan.examples.left_out != number
    if not others.any():
      return None
    most = 0
    for n, on_others in zip(
      choices, counts[:, others].sum(axis=1), strict=True
    ):
      num_training, num_control = num_images[others].sum(axis=0).tolist()
      alpha = thresholds.choose_alpha(
        on_others, num_training, num_control, plan.target_precision
      )
      extracted = on_others[0][alpha == hits_lib.ALPHAS].sum()
      if extracted > most:
        most = extracted
        for model in np.flatnonzero(~others):
          rules[model] = Rule(n, alpha)
  return rules


def _over_models(
  value: float, low: float, high: float, groups: np.ndarray
) -> tuple[float, float]:
  """Interval of newly trained models: Student's over groups of models.

  Groups differ in everything that training and sampling differ in, so that
  nothing is to be added to it; it is no narrower than that of these models.
  """
  _, lowest, highest = intervals.student(groups, 0.0, 1.0)
  if np.isnan(lowest):
    return np.nan, np.nan
  return min(low, lowest, value), max(high, highest, value)


def _summary(
  plan: neighbours.ExtractionPlan,
  rules: list[Rule],
  tallies: list[hits_lib.Tally],
  union: hits_lib.Tally,
  controlled: bool,
) -> pd.DataFrame:
  """Rows for each target, pooled, their union, and the median target."""
  common = [
    values[0] if len(set(values)) == 1 else np.nan
    for values in zip(*rules, strict=True)
  ]
  every = plan.num_samples * len(tallies)
  targets: list[tuple[str, Sequence[float], hits_lib.Tally, int]] = [
    (f'model-{model:03d}', rule, tally, plan.num_samples)
    for model, (rule, tally) in enumerate(zip(rules, tallies, strict=True))
  ]
  targets.append(('pooled', common, hits_lib.add(tallies), every))
  targets.append(('union', common, union, every))
  table = pd.DataFrame(
    [
      {
        'target': target, 'num_neighbours': rule[0], 'alpha': rule[1],
        'metric': metric, 'value': value,
        'low': low, 'high': high, 'num_training': tally.num_training,
        'num_control': tally.num_control, 'num_samples': num_samples,
      }
      for target, rule, tally, num_samples in targets
      for metric, (value, low, high) in hits_lib.with_intervals(
        tally, len(tallies) if controlled and target == 'pooled' else controlled
      ).items()
      if target != 'union' or metric.startswith('extracted')
    ]
  )  # fmt: skip
  table = table.assign(low_models=np.nan, high_models=np.nan)
  by_group = [
    hits_lib.with_intervals(
      hits_lib.add([tallies[k] for k in models]), controlled
    )
    for models in (
      np.flatnonzero(plan.examples.left_out == name)
      for name in np.unique(plan.examples.left_out)
    )
  ]
  for metric in ('extracted_fraction', 'precision'):
    row = (table['target'] == 'pooled') & (table['metric'] == metric)
    value, low, high = table.loc[row, ['value', 'low', 'high']].to_numpy()[0]
    table.loc[row, ['low_models', 'high_models']] = _over_models(
      value,
      low,
      high,
      np.array([row_of_group[metric][0] for row_of_group in by_group]),
    )
  # A target without hits has no precision and no say in its median.
  single = table[table['target'].str.startswith('model-')]
  median = (
    single.groupby('metric', sort=False)
    .agg(
      num_neighbours=('num_neighbours', 'median'),
      alpha=('alpha', 'median'),
      value=('value', 'median'),
      low=('value', 'min'),
      high=('value', 'max'),
      num_training=('num_training', 'median'),
      num_control=('num_control', 'median'),
      num_samples=('num_samples', 'first'),
    )
    .reset_index()
    .assign(target='median', low_models=np.nan, high_models=np.nan)
  )
  return pd.concat([table, median[table.columns]], ignore_index=True)
