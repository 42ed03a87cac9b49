"""dedup.html: how far images are from each other, and pairs to look at."""

from typing import Any

from etils import epath
import numpy as np
import pandas as pd

from jaxdiff.defences import dedup
from jaxdiff.report import figures, galleries, parts
from jaxdiff.runs import files

# Pairs of each bin of distances, whose edges are multiples of the threshold.
_SHOWN = 6
_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
# In place of a threshold of 0: RMSE, and bits.
_BASE = (0.02, 31.0)
# Groups that the page shows, and images of each.
_GROUPS, _MEMBERS = 12, 8


def write(
  plan: dedup.DedupPlan,
  found: dedup.Found,
  rows: pd.DataFrame,
  folder: epath.Path,
) -> epath.Path:
  """Writes dedup.html; returns it.

  Args:
    plan: what was joined.
    found: what the join found.
    rows: dedup.csv.
    folder: where to.
  """
  taken = len(rows) - int(rows['kept'].sum())
  text = parts.render(
    'dedup.html.jinja',
    key=plan.images.key,
    against=plan.against is not None,
    count=f'{len(rows):,}',
    others=f'{len(found.others):,}',
    pairs=f'{len(found.pairs):,}',
    taken=f'{taken:,}',
    share=f'{taken / len(rows):.2%}',
    threshold=f'{plan.limit:g}',
    hashed=plan.pdq is not None,
    plain=f'{found.plain:,}' if found.plain else '',
    plain_others=f'{found.plain_others:,}' if found.plain_others else '',
    flip=plan.flip,
    shift=plan.shift,
    keep=plan.keep,
    size=dedup.compared(plan)[0],
    look=f'{plan.look:g}',
    beyond=f'{np.count_nonzero(np.isinf(found.nearest)) - found.plain:,}',
    figure=parts.svg_url(
      figures.nearest_distances(
        found.nearest, plan.limit, plan.look, in_bits=plan.pdq is not None
      )
    ),
    bins=_bins(plan, found, rows),
    groups=[] if plan.against is not None else _groups(found, rows),
  )
  files.write(folder / 'dedup.html', text.encode('utf-8', 'backslashreplace'))
  return folder / 'dedup.html'


def _bins(
  plan: dedup.DedupPlan, found: dedup.Found, rows: pd.DataFrame
) -> list[dict[str, Any]]:
  """Images beside the nearest other, some of each range of distances."""
  out = []
  # Of copies alone, with no threshold to take multiples of, fixed ones.
  edges = (plan.limit or _BASE[plan.pdq is not None]) * np.array(_EDGES)
  edges = np.append(edges[edges < plan.look], plan.look)
  if not plan.limit:
    edges = np.insert(edges, 0, 0.0)
  for number, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
    first = number == 0
    inside = (found.nearest >= low if first else found.nearest > low) & (
      found.nearest <= high
    )
    chosen = np.flatnonzero(inside)
    if not len(chosen):
      continue
    # Evenly over the range, each pair once.
    order = chosen[np.argsort(found.nearest[chosen], kind='stable')]
    pairs: dict[tuple[int, int], int] = {}
    for row in order:
      other = int(found.nearest_row[row])
      key = (int(row), other)
      if plan.against is None:
        key = min(key), max(key)
      pairs.setdefault(key, int(row))
    picked = list(pairs.values())
    step = np.linspace(0, len(picked) - 1, min(_SHOWN, len(picked))).astype(int)
    out.append(
      {
        'low': f'{low:.3g}',
        'high': f'{high:.3g}',
        'within': high <= plan.limit,
        'count': f'{len(chosen):,}',
        'pairs': [
          {
            'first': galleries.png(found.images[row]),
            'second': galleries.png(found.others[found.nearest_row[row]]),
            'name': galleries.short(str(rows['source'].iloc[row])),
            'other': galleries.short(str(rows['nearest_source'].iloc[row])),
            'distance': f'{found.nearest[row]:.3g}',
          }
          for row in (picked[k] for k in dict.fromkeys(step.tolist()))
        ],
      }
    )
  return out


def _groups(found: dedup.Found, rows: pd.DataFrame) -> list[dict[str, Any]]:
  """The largest groups."""
  large = rows[rows['copies'] > 1]
  sizes = large.groupby('group', sort=False)['copies'].first()
  out = []
  for group in sizes.sort_values(ascending=False, kind='stable').index[
    :_GROUPS
  ]:
    members = large[large['group'] == group].sort_values(
      'kept', ascending=False, kind='stable'
    )
    out.append(
      {
        'size': f'{len(members):,}',
        'images': [
          {
            'url': galleries.png(found.images[row.index_]),
            'name': galleries.short(str(row.source)),
            'kept': bool(row.kept),
          }
          for row in members.rename(columns={'index': 'index_'})
          .head(_MEMBERS)
          .itertuples()
        ],
      }
    )
  return out
