"""Membership tables: every attack on stored signals, with intervals.

Each attack scores at a timestep of its own, by one of three rules: `fixed`, the
paper's t = 100; `other_models`, the timestep with the best AUC on models other
than the target's; `oracle`, that with the best AUC on the targets themselves.
The last is no attack, and is marked so wherever it is shown; `timesteps.csv`
lists all timesteps for study.
"""

from collections.abc import Callable, Sequence
import dataclasses

from absl import logging
import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.attacks.membership import (
  comparison,
  controls,
  dataset_inference,
  paths,
  registry,
  sensitivity,
  text_features,
  timestep_rules,
)
from jaxdiff.data import examples as examples_lib
from jaxdiff.metrics import bootstrap, roc
from jaxdiff.runs import files, layout
from jaxdiff.runtime import progress

# The loss enters as it is, or as its logarithm.
TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'none': lambda signals: signals,
  'log': np.log,
}


@dataclasses.dataclass(frozen=True)
class MembershipPlan:
  """All that membership scoring needs; made by `plans`.

  Attributes:
    examples: the images, which model trained on which, and in what groups.
    timestep: of rule `fixed`.
    transform: of the loss, one of TRANSFORMS.
    variance: LiRA's variance whose scores are written out.
    num_resamples: of the intervals.
    seed: of the intervals.
    resolved: whether scores are compared by ramps, `roc` equation (3); scores
      that come from elsewhere are taken as they are.
  """

  examples: examples_lib.Examples
  timestep: int
  transform: str
  variance: str
  num_resamples: int
  seed: int
  resolved: bool = True


def statistics(
  attack: registry.Attack,
  scores: np.ndarray,
  keep: np.ndarray,
  usable: np.ndarray,
  cluster: np.ndarray,
  left_out: np.ndarray,
  *,
  num_resamples: int,
  seed: int,
  fprs: Sequence[float] = roc.FPRS,
  resolved: bool = True,
) -> dict[str, tuple[float, ...]]:
  """ROC statistics of an attack, with both of their intervals.

  Over examples, the scores are as they are. Where models score each other by
  what they learned of each other, that halves the variance: what two models
  have in common by chance counts once in the score of each. Their intervals are
  wider by the square root of 2.

  Args:
    attack: that made the scores.
    scores: [K, N].
    keep: bool [K, N].
    usable: bool [K, N], the scores that there are.
    cluster: int [N].
    left_out: int [K].
    num_resamples: of the bootstrap.
    seed: of it.
    fprs: false-positive rates.
    resolved: whether scores are compared by ramps.

  Returns:
    name -> (value, low, high, low_models, high_models): the interval over
    examples, of these models; and over models too, of newly trained ones.
  """
  return bootstrap.of_roc(
    scores[usable],
    keep[usable],
    np.broadcast_to(cluster, keep.shape)[usable],
    np.broadcast_to(left_out[:, None], keep.shape)[usable],
    num_resamples=num_resamples,
    seed=seed,
    fprs=fprs,
    wider=np.sqrt(2.0) if attack.learned else 1.0,
    resolved=resolved,
  )


def analyse(
  plan: MembershipPlan,
  signals: np.ndarray,
  queries: pd.DataFrame,
  run: layout.Run,
) -> None:
  """Scores stored signals; writes the tables of membership/.

  Args:
    plan: what to score and how.
    signals: float32 [K, N, Q].
    queries: table of the Q columns.
    run: where to write.
  """
  losses = np.flatnonzero(queries['name'] == 'loss')
  transform = TRANSFORMS[plan.transform]
  if plan.transform != 'none':
    signals = signals.copy()
    signals[..., losses] = transform(signals[..., losses])
  examples = plan.examples
  chosen = registry.attacks(
    queries, examples.images, examples.group, examples.targets is not None
  )
  files_of = paths.Paths(run)
  blind, shifted = blind_of(plan), False
  if examples.captions:
    by_text = blind_of_captions(plan)
    shifted = by_text.shifted
    files.write_csv(files_of.blind_captions, comparison.blind_table(by_text))
  tables = score(plan, signals, queries, chosen, blind.shifted or shifted)
  comparison.write(tables, files_of)
  # What follows is about the targets alone.
  examples = examples.of_targets()
  plan = dataclasses.replace(plan, examples=examples)
  signals = signals[: examples.num_models]
  for path, table in (
    (files_of.blind, comparison.blind_table(blind)),
    (files_of.inference, dataset_inference.table(
      signals, queries, examples.keep, examples.group, plan.seed
    )),
    (files_of.studies, sensitivity.table(plan, signals, queries)),
    (files_of.extremes, sensitivity.extremes(queries, tables['scores'])),
  ):  # fmt: skip
    files.write_csv(path, table)


def blind_of(plan: MembershipPlan) -> controls.Blind:
  """Whether images alone tell the members of the targets."""
  examples = plan.examples.of_targets()
  return controls.blind(
    examples.images, examples.keep, examples.left_out, examples.group,
    plan.seed, plan.num_resamples,
  )  # fmt: skip


def blind_of_captions(plan: MembershipPlan) -> controls.Blind:
  """Whether captions alone tell the members of the targets.

  Of sides that a user brings a caption may be on one alone, which betrays it
  as well as any words: there images of one caption are not kept together.
  """
  examples = plan.examples.of_targets()
  brought = plan.examples.targets is not None
  return controls.blind_by(
    text_features.describe(examples.captions), examples.keep,
    examples.left_out, examples.image if brought else examples.group,
    plan.seed, plan.num_resamples,
  )  # fmt: skip


def score(
  plan: MembershipPlan,
  signals: np.ndarray,
  queries: pd.DataFrame,
  chosen: Sequence[registry.Attack],
  shifted: bool,
) -> dict[str, pd.DataFrame]:
  """Tables of some attacks on stored signals.

  Args:
    plan: what to score and how.
    signals: float32 [K, N, Q].
    queries: table of the Q columns.
    chosen: the attacks.
    shifted: whether the blind baseline told members apart.

  Returns:
    scores, summary, roc, timesteps and comparison.

  Raises:
    InputError: where no attack has the models that it needs.
  """
  attacked = plan.examples.attacked[:, None]
  tables: dict[str, list[pd.DataFrame]] = {
    'scores': [], 'summary': [], 'roc': [], 'timesteps': [],
  }  # fmt: skip
  without: list[str] = []
  with progress.track('membership', len(chosen), 'attacks') as advance:
    for attack in chosen:
      advance(1)
      measured = np.flatnonzero(queries['name'] == attack.signal)
      enough = attacked & attack.usable(
        plan.examples.keep, plan.examples.left_out
      )
      usable = enough & ~np.isnan(signals[..., measured]).any(axis=2)
      if not enough.any():
        without.append(f'{attack.name} ({attack.variance})')
        continue
      if not usable[plan.examples.attacked].all():
        logging.warning(
          '%s (%s): %d of %d scores have too few shadow models and are left '
          'out; train more models (num_models)',
          attack.name, attack.variance, (attacked & ~usable).sum(),
          (attacked & np.ones_like(usable)).sum(),
        )  # fmt: skip
      # Members and non-members on each side, or there is no ROC.
      if len(np.unique(plan.examples.keep[usable])) < 2:
        continue
      for name, table in _tables_of(
        plan, attack, signals, queries, usable
      ).items():
        tables[name].append(table)
  if without:
    logging.warning(
      'left out, for they need more shadow models: %s', ', '.join(without)
    )
  if not tables['summary']:
    raise inputs.InputError(
      'membership: an ROC needs scores of members and of non-members, and one '
      'of them is missing'
    )
  joined = {
    name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()
  }
  return joined | {
    'comparison': comparison.of_summary(joined['summary'], shifted)
  }


def _tables_of(
  plan: MembershipPlan,
  attack: registry.Attack,
  signals: np.ndarray,
  queries: pd.DataFrame,
  usable: np.ndarray,
) -> dict[str, pd.DataFrame]:
  """The rows of one attack: signals [K, N, Q], usable bool [K, N]."""
  keep, left_out, cluster = (
    plan.examples.keep,
    plan.examples.left_out,
    plan.examples.group,
  )
  model, number = np.nonzero(usable)
  read, timesteps = attack.read(signals, queries, plan.timestep)
  scores = attack.grid(read, keep, left_out)
  name = {'attack': attack.name, 'variance': attack.variance}

  def ranked(picked: np.ndarray) -> roc.Ranking:
    return roc.rank(
      picked[usable], keep[usable], cluster[number], resolved=plan.resolved
    )

  timestep_rows = []
  for q, t in enumerate(timesteps):
    metrics = roc.statistics(ranked(scores[..., q]))
    timestep_rows += [
      {**name, 't': t, 'metric': metric, 'value': value}
      for metric, value in metrics.items()
    ]

  rules = {}
  fixed = np.flatnonzero(timesteps == plan.timestep)
  if len(fixed) or len(timesteps) == 1:
    rules['fixed'] = np.full(len(keep), fixed[0] if len(fixed) else 0)
  chosen = None
  if plan.examples.attacked.all():
    chosen = timestep_rules.choose_on_others(
      attack, read, scores, keep, left_out
    )
  if chosen is not None:
    rules['other_models'] = chosen
  if len(timesteps) > 1:
    rules[timestep_rules.ORACLE] = np.full(
      len(keep), timestep_rules.best_timestep(scores, keep, usable)
    )
  summary_rows, roc_tables, score_tables = [], [], []
  for rule, column in rules.items():
    picked = timestep_rules.scores_at(attack, scores, column, keep, left_out)
    common = {**name, 'timestep_rule': rule}
    ranking = ranked(picked)
    metrics = statistics(
      attack, picked, keep, usable, cluster, left_out,
      num_resamples=plan.num_resamples, seed=plan.seed,
      resolved=plan.resolved,
    )  # fmt: skip
    metrics['null_auc'] = (
      *controls.null_control(
        picked,
        ~keep & usable,
        cluster,
        plan.seed,
        plan.num_resamples,
        resolved=plan.resolved,
      ),
      np.nan,
      np.nan,
    )
    used = timesteps[np.unique(column)]
    cost = max(
      queries['cost'].iloc[attack.columns(queries, t)].sum() for t in used
    )
    summary_rows += [
      {
        **common, 't': '/'.join(map(str, used)), 'metric': metric,
        'value': value, 'low': low, 'high': high, 'low_models': low_models,
        'high_models': high_models, 'queries': round(float(cost), 6),
        'shadow_models': attack.shadow_models(left_out),
        'num_models': len(np.unique(model)),
        'num_examples': len(np.unique(number)),
        'num_non_members': ranking.distinct_others,
      }
      for metric, (value, low, high, low_models, high_models)
      in metrics.items()
    ]  # fmt: skip
    if rule == timestep_rules.ORACLE:
      continue
    fpr, tpr, cut = roc.grid_curve(ranking)
    roc_tables.append(
      pd.DataFrame({**common, 'fpr': fpr, 'tpr': tpr, 'threshold': cut})
    )
    if attack.variance in ('-', plan.variance):
      table = {
        **common,
        'model': model,
        't': timesteps[column[model]],
        'index': number,
        'member': keep[usable].astype(int),
        'score': picked[usable],
      }
      score_tables.append(pd.DataFrame(table))
  out = {
    'summary': pd.DataFrame(summary_rows),
    'timesteps': pd.DataFrame(timestep_rows),
  }
  for kind, parts in (('roc', roc_tables), ('scores', score_tables)):
    if parts:
      out[kind] = pd.concat(parts, ignore_index=True)
  return out
