"""Tables of surrogate guidance beside plain sampling."""

import numpy as np
import pandas as pd

from jaxdiff.attacks.extraction import evaluate as extraction_evaluate
from jaxdiff.attacks.extraction import hits as hits_lib
from jaxdiff.attacks.extraction import neighbours
from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.attacks.side import attack as side_attack
from jaxdiff.attacks.side import paths
from jaxdiff.metrics import intervals
from jaxdiff.runs import blocks as blocks_lib
from jaxdiff.runs import files, layout


def _rates(hits: list[dict[str, np.ndarray]]) -> dict[str, float]:
  """Of samples that are put together: SIDE's AMS and UMS, and the control's."""
  joined = {
    half: np.concatenate([hits_of_set[half] for hits_of_set in hits])
    for half in hits_lib.HALVES
  }
  count = len(joined['training'])

  def unique(half: str) -> int:
    return len(np.unique(joined[half][joined[half] >= 0]))

  return {
    'hit_rate': float((joined['training'] >= 0).mean()),
    'unique_rate': unique('training') / count,
    'control_unique_rate': unique('control') / count,
  }


def table(
  plan: side_attack.SidePlan, run: layout.Run, guided: layout.Run
) -> pd.DataFrame:
  """One row a setting, model, budget, arm and metric.

  Columns: setting, model, budget ('equal_samples', 'equal_total'), num_samples,
  arm ('plain', 'guided'), metric, value. Metrics: 'hit_rate', samples that hit
  some training image (SIDE's AMS); 'unique_rate', distinct training images hit
  by sample (UMS); 'control_unique_rate', the same of the control half.
  """
  rules = extraction_evaluate.rules_of(run, plan.near)
  rows = []
  for setting in plan.settings:
    for model in range(plan.examples.num_models):
      if (setting, model) not in rules:
        continue
      plain, found = (
        hits_lib.hit_by_sample(
          blocks_lib.read_rows(
            folder, extraction_paths.Paths(folder).neighbours, model, number,
            plan.block_size, neighbours.NEIGHBOUR_ARRAYS,
          ),
          plan.examples.image, *rules[setting, model],
        )
        for folder, number in (
          (run, plan.num_plain), (guided, plan.num_samples),
        )
      )  # fmt: skip
      learned, rest = (
        {half: hit[part] for half, hit in plain.items()}
        for part in (
          slice(plan.num_learned), slice(plan.num_learned, None),
        )
      )  # fmt: skip
      for budget, arms in (
        ('equal_samples', {'plain': [rest], 'guided': [found]}),
        ('equal_total', {'plain': [plain], 'guided': [learned, found]}),
      ):
        for arm, parts in arms.items():
          number = sum(len(part['training']) for part in parts)
          rows += [
            (setting, model, budget, number, arm, metric, value)
            for metric, value in _rates(parts).items()
          ]
  return pd.DataFrame(
    rows,
    columns=[
      'setting', 'model', 'budget', 'num_samples', 'arm', 'metric', 'value',
    ],
  )  # fmt: skip


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
  """Mean over models of each arm, and of their difference, with intervals."""
  out = []
  names = ['setting', 'budget', 'num_samples', 'metric']
  for keys, part in rows.groupby(names, sort=False):
    wide = part.pivot_table(index='model', columns='arm', values='value')
    for arm, values in (
      ('plain', wide['plain']),
      ('guided', wide['guided']),
      ('difference', wide['guided'] - wide['plain']),
    ):
      lowest = -np.inf if arm == 'difference' else 0.0
      value = intervals.student(values.to_numpy(), lowest)
      out.append((*keys, arm, *value, len(wide)))
  return pd.DataFrame(
    out, columns=[*names, 'arm', 'value', 'low', 'high', 'num_models']
  )


def analyse(
  plan: side_attack.SidePlan, run: layout.Run, guided: layout.Run
) -> None:
  """Compares stored neighbours; writes the table of models and the summary."""
  rows = table(plan, run, guided)
  files.write_csv(paths.Paths(run).models, rows)
  files.write_csv(
    paths.Paths(run).summary,
    summarise(rows).assign(
      scale=plan.scale, num_clusters=plan.num_clusters, cohesion=plan.cohesion
    ),
  )
