"""Private training in the report: what was proven, and what was measured."""

from typing import Any

import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import paths as membership_paths
from jaxdiff.defences import guarantee
from jaxdiff.report import figures, names, parts, policy
from jaxdiff.runs import files

PLACE = 2.2

_METHODS = (
  'DP-SGD: Abadi et al., CCS 2016; of diffusion models, Dockhorn et al., TMLR '
  '2023; class means first, Li et al. (DP-FETA), IEEE S&amp;P 2025; noised '
  'covariances, Dwork et al. (“Analyze Gauss”), STOC 2014. '
  'Accounting: privacy-loss distributions, Doroshenko et al., PoPETs 2022. '
  'The ceiling: Kairouz, Oh, Viswanath, ICML 2015. The bound from below: '
  'Mahloujifar et al., “Auditing f-Differential Privacy in One Run”, 2024.',
)  # fmt: skip


def make(page: parts.Page) -> parts.Section:
  """Is what was measured below what was proven?"""
  paths = guarantee.Paths(page.run)
  stated = files.read_csv(paths.guarantee).iloc[0]
  verdicts = files.read_csv(paths.verdicts)
  audit = files.read_csv(paths.audit)
  ceiling = files.read_csv(paths.ceiling)
  private = bool(np.isfinite(stated['epsilon']))
  proven = bool(stated['proven'])
  above = verdicts[verdicts['above'] == 1]
  low = float(audit['bound'].median()) if len(audit) else np.nan
  roc = files.read_csv(membership_paths.Paths(page.run).roc)
  shown, _ = figures.by_signal(roc['attack'])
  return parts.Section(
    title='Private training',
    html=parts.render(
      'sections/guarantee.html.jinja',
      private=private,
      stated=stated.to_dict(),
      proven=proven,
      rows=_rows(verdicts),
      above=sorted({names.title(name) for name in above['attack']}),
      audit=_audit(audit),
      figure=figures.under_ceiling(roc, shown, ceiling),
    ),
    finding=finding(stated, above, low),
    tested='the guarantee of training, against what attacks measured',
    methods=_METHODS,
    metrics=(
      policy.counted(
        'epsilon', float(stated['epsilon']) if private else np.nan, 1
      ),
      policy.counted('lower_bound', low, len(audit)),
      policy.counted(
        'above', float(len(above)) if proven else np.nan, len(verdicts)
      ),
    ),
  )


def finding(stated: pd.Series, above: pd.DataFrame, low: float) -> str:
  """What is proven, and whether anything is above it, in a sentence."""
  if not np.isfinite(stated['epsilon']):
    return (
      'Training was not private; scores of single models speak for an epsilon '
      f'of {low:.3g} at least (median model).'
    )
  said = (
    f'Training keeps to epsilon {stated["epsilon"]:.3g} at delta '
    f'{stated["delta"]:g}, of {stated["relation"]}; single models’ scores '
    f'speak for {low:.3g} at least. '
  )
  if not stated['proven']:
    return said + (
      'Neither is a proof here: training sets were not drawn by coins '
      '(split=bernoulli), or near-duplicates stay together.'
    )
  if len(above):
    return said + (
      'Attacks are surely above the ceiling: that is a bug, in the training or '
      'in this audit.'
    )
  return said + 'No attack is surely above what that allows.'


def _rows(verdicts: pd.DataFrame) -> list[dict[str, Any]]:
  """One row an attack and rate; of rules the last, chosen on other models."""
  keys = ['attack', 'variance', 'fpr']
  any_rule = verdicts.groupby(keys)['above'].transform('max')
  last = verdicts.assign(above=any_rule).groupby(keys, sort=False).tail(1)
  return [
    {
      'attack': names.title(row['attack']),
      'variance': row['variance'],
      'fpr': f'{row["fpr"]:g}',
      'tpr': parts.number(row['tpr'], row['low'], row['high']),
      'ceiling': f'{row["ceiling"]:.3g}',
      'above': bool(row['above']),
    }
    for row in last.to_dict('records')
  ]


def _audit(audit: pd.DataFrame) -> dict[str, str]:
  """Bounds from below: median, range and cap."""
  if audit.empty:
    return {}
  bound = audit['bound']
  return {
    'attack': names.title(audit['attack'].iloc[0]),
    'median': f'{bound.median():.3g}',
    'range': f'{bound.min():.3g} to {bound.max():.3g}',
    'cap': f'{audit["cap"].median():.3g}',
    'count': str(int(audit['members'].median())),
  }
