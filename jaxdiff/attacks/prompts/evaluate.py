"""Tables of prompts: their screens, their cliques, and what each is worth.

Truths that a screen may be held against, as far as they are known:

* `trained`: images of the prompt were trained on, or held out; `asked` where
  nobody knows that of the prompts which are not held out;
* `copies`: several of them were, or one;
* `found`: the full attack called the prompt memorised, or did not. Of prompts
  that a screen chose it says nothing of screens.

A classifier that reads the prompts alone stands beside every screen: one that
does not beat it may know the prompts by their words (what is commonly compared,
memorised prompts with captions of another source, is told apart by text alone).
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import controls, text_features
from jaxdiff.attacks.prompts import paths, screen, stream
from jaxdiff.data import known_prompts
from jaxdiff.metrics import average_precision, bootstrap, intervals
from jaxdiff.runs import files, layout

# Of held-out prompts, the share above the score that a prompt must have to be
# kept by a screen.
_FALSE_ALARM = 0.05
# Rows and groups of either kind that a text-only classifier needs.
_GROUPS = 4
# Of the full attack's work, what a screen and the attack on its first prompts
# may take together.
_BUDGET = 1 / 20
# Fewer rows of a kind say nothing.
_FEWEST = 5
TEXT = 'text'


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatePlan:
  """All that the tables need; made by `plans`.

  Attributes:
    texts: the prompts.
    known: what is known of them.
    num_models: K.
    screen: None if nothing was screened.
    stream: None if nothing was generated.
    seed: of resampling.
    num_resamples: of intervals.
    false_alarm: share of held-out prompts that may be called memorised: tau is
      lowered until no more are; 0 leaves it.
  """

  texts: tuple[str, ...]
  known: known_prompts.Known
  num_models: int
  screen: screen.ScreenPlan | None
  stream: stream.StreamPlan | None
  seed: int
  num_resamples: int
  false_alarm: float = 0.0


def p_values(scores: np.ndarray, held_out: np.ndarray) -> np.ndarray:
  """How often a held-out prompt has as large a score: [n].

  Exact where prompts that were not trained on are exchangeable with these:
  (1 + number of held-out prompts as large) / (1 + their number).

  Args:
    scores: [n]; larger is more surely memorised.
    held_out: [m] of prompts that were not trained on.
  """
  held_out = np.sort(held_out)
  above = len(held_out) - np.searchsorted(held_out, scores, side='left')
  return (1 + above) / (1 + len(held_out))


def calibrated_tau(
  least_tau: np.ndarray, tau: float, false_alarm: float
) -> float:
  """The largest tau by which so few held-out prompts would be called memorised.

  Args:
    least_tau: [m] of held-out prompts; infinite where there is no clique.
    tau: not beyond it.
    false_alarm: of a prompt like these, at most; 0 keeps tau.
  """
  if not false_alarm:
    return tau
  allowed = int(np.floor(false_alarm * (len(least_tau) + 1) + 1e-9)) - 1
  if allowed < 0:
    return -1.0  # too few to say: nothing is
  rising = np.sort(least_tau)
  if allowed >= len(rising) or rising[allowed] > tau:
    return tau
  return float(np.nextafter(np.float32(rising[allowed]), np.float32(-1)))


def fewest_held_out(false_alarm: float) -> int:
  """Held-out prompts that can say so small a share; 0 needs none."""
  return int(np.ceil(1.0 / false_alarm - 1e-9)) - 1 if false_alarm else 0


def tables(plan: EvaluatePlan, run: layout.Run) -> None:
  """Writes the tables of `paths`, from evidence alone."""
  prompts = rows_of(plan, run)
  where = paths.Paths(run)
  if plan.screen is not None:
    screened = prompts[[*_KEYS, *plan.screen.kinds]].copy()
    for kind in plan.screen.kinds:
      screened[f'p_{kind}'] = _against_held_out(
        prompts[kind].to_numpy(), prompts['trained'].to_numpy() == 0
      )
    files.write_csv(where.screens, screened)
    files.write_csv(where.summary, screens_summary(plan, prompts))
  if plan.stream is not None:
    found = prompts[prompts['num_images'] > 0]
    order = ['least_tau', 'model', 'number']
    files.write_csv(where.table, found.sort_values(order, kind='stable'))
    files.write_csv(where.totals, totals(plan, found))


_KEYS = ('model', 'number', 'id', 'prompt', 'trained', 'copies')


def rows_of(plan: EvaluatePlan, run: layout.Run) -> pd.DataFrame:
  """A row a model and prompt, with all that was measured."""
  count = len(plan.texts)
  parts = []
  for model in range(plan.num_models):
    rows = pd.DataFrame(
      {
        'model': model,
        'number': np.arange(count),
        'id': plan.known.ids,
        'prompt': plan.texts,
        'trained': plan.known.trained[model].astype(int),
        'copies': plan.known.copies,
        'group': plan.known.group,
      }
    )
    if plan.screen is not None:
      measured = screen.read(plan.screen, run, model)
      rows = rows.assign(**{k: measured[k] for k in plan.screen.kinds})
    if plan.stream is not None:
      drawn = pd.DataFrame(stream.read(plan.stream, run, model))
      for name, none in (('mean_distance', np.nan), ('least_tau', np.inf)):
        drawn[name] = drawn[name].where(drawn[name] >= 0, none)
      rows = rows.merge(drawn, on='number', how='left')
      rows['num_images'] = rows['num_images'].fillna(0).astype(int)
    parts.append(rows)
  out = pd.concat(parts, ignore_index=True)
  if plan.stream is None:
    return out
  # A prompt that no screen chose has no clique, held out or not.
  out['least_tau'] = out['least_tau'].fillna(np.inf)
  held = out['trained'] == 0
  tau = calibrated_tau(
    out.loc[held, 'least_tau'].to_numpy(), plan.stream.tau, plan.false_alarm
  )
  out['tau'] = tau
  # A clique that no search came to has no picture, and is not claimed.
  held_tau = (out['least_tau'] <= np.float32(tau)) & (out['clique_size'] > 0)
  out['found'] = held_tau.astype(int)
  out['p_value'] = _against_held_out(
    -out['least_tau'].to_numpy(), held.to_numpy()
  )
  return out


def _against_held_out(scores: np.ndarray, held: np.ndarray) -> np.ndarray:
  """`p_values` of what is not held out; NaN of the held-out, or without."""
  out = np.full(len(scores), np.nan)
  if held.any():
    out[~held] = p_values(scores[~held], scores[held])
  return out


def screens_summary(plan: EvaluatePlan, rows: pd.DataFrame) -> pd.DataFrame:
  """What each screen is worth, by each truth that is known.

  Returns:
    Columns truth, screen, rows, positives, calls (of the denoiser, a prompt),
    cost (of the full attack's calls), auc, ap and kept with their intervals,
    kept_at_twentieth, direction, against_text.
  """
  assert plan.screen is not None
  calls = plan.screen.calls()
  calls |= {TEXT: 0}
  full = np.nan if plan.stream is None else plan.stream.rows()
  features = None
  out = []
  for truth, (chosen, positive) in truths(rows).items():
    part = rows[chosen].reset_index(drop=True)
    positive = positive[chosen]
    if min(positive.sum(), (~positive).sum()) < _FEWEST:
      continue
    if features is None:
      features = text_features.describe(plan.texts)
    group = part['group'].to_numpy()
    scores = {kind: part[kind].to_numpy(float) for kind in plan.screen.kinds}
    held = {
      kind: rows.loc[rows['trained'] == 0, kind].to_numpy(float)
      for kind in plan.screen.kinds
    }
    if {'wen_first', 'cosine'} <= scores.keys():
      scores['anisotropy'] = anisotropy(
        scores['wen_first'], scores['cosine'], part['model'].to_numpy()
      )
      calls['anisotropy'] = calls['wen_first'] + calls['cosine']
    text = text_scores(plan, features, part, positive)
    if text is not None:
      scores[TEXT] = text
    for kind, score in scores.items():
      found = bootstrap.cluster_bootstrap_roc(
        score, positive, group, num_resamples=plan.num_resamples,
        seed=plan.seed, fprs=(), resolved=False,
      )['auc']  # fmt: skip
      ap = average_precision.with_interval(
        score, positive, group, num_resamples=plan.num_resamples,
        seed=plan.seed,
      )  # fmt: skip
      cost = calls[kind] / full
      kept = _kept(score[positive], group[positive], held.get(kind))
      against = ''
      if text is not None and kind != TEXT:
        gap = average_precision.difference(
          score, text, positive, group, num_resamples=plan.num_resamples,
          seed=plan.seed,
        )  # fmt: skip
        against = 'beats' if gap[1] > 0.0 else 'does not beat'
      out.append(
        {
          'truth': truth, 'screen': kind, 'rows': len(part),
          'positives': int(positive.sum()), 'calls': calls[kind], 'cost': cost,
          **_ends('auc', found), **_ends('ap', ap), **_ends('kept', kept),
          'kept_at_twentieth': _kept_within(score, positive, cost),
          'direction': (
            'reversed' if found[2] < 0.5 else 'right' if found[1] > 0.5 else ''
          ),
          'against_text': against,
        }
      )  # fmt: skip
  return pd.DataFrame(out, columns=_SUMMARY)


_SUMMARY = (
  'truth', 'screen', 'rows', 'positives', 'calls', 'cost', 'auc', 'auc_low',
  'auc_high', 'ap', 'ap_low', 'ap_high', 'kept', 'kept_low', 'kept_high',
  'kept_at_twentieth', 'direction', 'against_text',
)  # fmt: skip


def truths(rows: pd.DataFrame) -> dict[str, tuple[Any, Any]]:
  """(rows that count, which of all rows are positive) of each truth."""
  trained = rows['trained'].to_numpy()
  copies = rows['copies'].to_numpy()
  out = {
    'trained': (trained >= 0, trained == 1),
    'copies': ((trained == 1) & (copies > 0), copies > 1),
  }
  if not (trained == 1).any():
    out['asked'] = np.ones(len(rows), bool), trained != 0
  if 'found' in rows and (rows['num_images'] > 0).all():
    out['found'] = np.ones(len(rows), bool), rows['found'].to_numpy() > 0
  return out


def anisotropy(
  norm: np.ndarray, cosine: np.ndarray, model: np.ndarray
) -> np.ndarray:
  """Norm and cosine, each by its median and quartiles within a model, added.

  Asthana & Belagiannis weigh them by hand, otherwise for every model; here both
  weigh the same.
  """
  out = np.zeros(len(norm))
  for of_model in (model == k for k in np.unique(model)):
    for part in (norm[of_model], cosine[of_model]):
      low, middle, high = np.quantile(part, (0.25, 0.5, 0.75))
      out[of_model] += (part - middle) / max(high - low, 1e-12)
  return out


def text_scores(
  plan: EvaluatePlan,
  features: np.ndarray,
  part: pd.DataFrame,
  positive: np.ndarray,
) -> np.ndarray | None:
  """Of a classifier that reads the prompts alone, cross-validated by group.

  Each model's scores have mean 0 and deviation 1, so that how often a model is
  positive tells nothing; a model of which all rows are of one kind has 0. None
  where there are too few groups to learn from.

  Args:
    plan: for the seed.
    features: float [P, F] of all texts.
    part: rows that count.
    positive: bool, of these.
  """
  out, told = np.zeros(len(part)), False
  for model in np.unique(part['model']):
    rows = np.flatnonzero(part['model'] == model)
    group = part['group'].to_numpy()[rows]
    of_kinds = [
      len(np.unique(group[positive[rows] == kind])) for kind in (True, False)
    ]
    if min(of_kinds) < _GROUPS:
      continue
    told = True
    found = controls.cross_validated(
      features[part['number'].to_numpy()[rows]],
      positive[rows][None],
      group,
      plan.seed,
    )[0]
    out[rows] = (found - found.mean()) / max(found.std(), 1e-12)
  return out if told else None


def _kept(
  score: np.ndarray, group: np.ndarray, held: np.ndarray | None
) -> tuple[float, float, float]:
  """Share of positives above what few held-out prompts have, over groups.

  Args:
    score: of the positives.
    group: likewise.
    held: scores of all held-out prompts, whatever was found of them.
  """
  if held is None or len(held) < fewest_held_out(_FALSE_ALARM):
    return np.nan, np.nan, np.nan
  return intervals.clustered(p_values(score, held) <= _FALSE_ALARM, group)


def _kept_within(score: np.ndarray, positive: np.ndarray, cost: float) -> float:
  """Share of positives among the first prompts that the budget is left for.

  Of equal scores at the end, as many as chance would take.
  """
  if not cost <= _BUDGET:
    return np.nan
  first = int((_BUDGET - cost) * len(score) + 1e-9)
  if not first:
    return 0.0
  last = np.sort(score)[::-1][first - 1]
  above, equal = score > last, score == last
  share = (first - above.sum()) / equal.sum()
  return float(
    (positive[above].sum() + share * positive[equal].sum()) / positive.sum()
  )


def _ends(name: str, found: Sequence[float]) -> dict[str, float]:
  return dict(zip((name, f'{name}_low', f'{name}_high'), found, strict=True))


def totals(plan: EvaluatePlan, found: pd.DataFrame) -> pd.DataFrame:
  """Prompts called memorised: by what is known of them.

  Columns kind ('asked': not held out; 'trained', 'held_out', 'copies=n'),
  prompts drawn, found, value with its interval over groups of prompts, stopped
  (after the first seeds), and lost, an estimate of those that stopping lost.
  """
  assert plan.stream is not None
  trained = found['trained'] == 1
  kinds: dict[str, Any] = {'asked': found['trained'] != 0}
  if trained.any():
    kinds['trained'] = trained
  kinds['held_out'] = found['trained'] == 0
  for copies in sorted(found.loc[trained, 'copies'].unique()):
    if copies > 0:
      kinds[f'copies={copies}'] = trained & (found['copies'] == copies)
  out = []
  for kind, chosen in kinds.items():
    part = found[chosen]
    if not len(part):
      continue
    flagged = part[part['found'] > 0]
    lost = stream.lost(
      flagged['clique_size'].to_numpy(int), flagged['num_images'].to_numpy(int),
      plan.stream.first,
    )  # fmt: skip
    share, low, high = intervals.clustered(
      part['found'].to_numpy() > 0, part['group'].to_numpy()
    )
    out.append(
      {
        'kind': kind, 'prompts': len(part), 'found': len(flagged),
        'value': share, 'low': low, 'high': high,
        'stopped': int((part['num_images'] < plan.stream.num_seeds).sum()),
        'lost': lost.sum(), 'tau': part['tau'].iloc[0],
        'gave_up': int(part['gave_up'].sum()),
      }
    )  # fmt: skip
  return pd.DataFrame(out)
