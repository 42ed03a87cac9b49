"""The membership section of the report: what its tables say, in words."""

from typing import Any

import pandas as pd

from jaxdiff.attacks.membership import paths as membership_paths
from jaxdiff.report import figures, galleries, names, parts, tables
from jaxdiff.runs import files, layout

PLACE = 2

_METHODS = (
  'The loss threshold: Yeom, Giacomelli, Fredrikson, Jha, “Privacy Risk '
  'in Machine Learning”, CSF 2018. LiRA and the pooled variance: Carlini,'
  ' Chien, Nasr, Song, Terzis, Tramèr, “Membership Inference Attacks From'
  ' First Principles”, IEEE S&amp;P 2022. The shrunken variance: Smyth, '
  '“Linear Models and Empirical Bayes Methods”, 2004. RMIA: Zarifzadeh, '
  'Liu, Shokri, “Low-Cost High-Power Membership Inference Attacks”, ICML '
  '2024.',
  'Dataset inference: Maini et al., ICLR 2021; CDI, Dubiński et al., CVPR'
  ' 2025. The blind baseline: Das, Zhang, Tramèr, 2024.',
)  # fmt: skip
_OTHER_SIGNALS = (
  'Other signals: SecMI, Duan et al., ICML 2023; PIA and PIAN, Kong et '
  'al., ICLR 2024; PFAMI, Fu et al., 2023; SimA, 2025; ReDiffuse, Li et '
  'al., ICML 2025; gradient norms (GSA), Pang et al., PoPETs 2025; '
  'quantile regression, Bertran et al., NeurIPS 2023, Tang et al., ICML '
  '2024; CLiD, Zhai et al., NeurIPS 2024.',
)
_OF_DISCRIMINATOR = (
  'Discriminators: LOGAN, Hayes et al., PoPETs 2019; relativistic pairing, '
  'Jolicoeur-Martineau, ICLR 2019, and R3GAN, Huang et al., NeurIPS 2024.',
)
# Studies that the report draws, and what is along the axis.
_STUDIES = {
  'draws': 'Noise draws averaged',
  'models': 'Models in the run',
  'outliers': 'The tenth farthest from all others, and the nearest',
}

# The attack of the headline, in order of preference: named beforehand, since
# the best of many on the same scores would be read as better than it is.
_HEADLINE = (
  ('strong_lira', 'pooled', 'other_models'),
  ('strong_lira', 'pooled', 'fixed'),
  ('strong_threshold', '-', 'other_models'),
  ('strong_threshold', '-', 'fixed'),
  ('relativistic_lira', 'pooled', 'fixed'),
  ('relativistic', '-', 'fixed'),
  ('discriminator_lira', 'pooled', 'fixed'),
  ('discriminator', '-', 'fixed'),
)


def make(page: parts.Page) -> parts.Section:
  """Was this image trained on?"""
  config = page.config
  paths = membership_paths.Paths(page.run)
  metrics, controls = tables.metrics(paths)
  controls = (
    *controls,
    tables.blind_metric(paths.blind, 'blind', len(page.examples)),
  )
  if page.examples.captions:
    controls += (
      tables.blind_metric(
        paths.blind_captions, 'blind_captions', len(page.examples)
      ),
    )
  summary = files.read_csv(membership_paths.Paths(page.run).summary)
  of_gans = page.subject.adversary is not None
  lira = summary['attack'].str.endswith('lira').any()
  kinds = config['signals']['kinds']
  attacks = ', LiRA and RMIA' if lira and of_gans else ''
  if lira and not of_gans:
    attacks = ', LiRA (online and offline) and RMIA'
  tested = f'membership by {", ".join(kinds)}: thresholds{attacks}'
  if not of_gans:
    tested += (
      f' on {len(config["signals"]["timesteps"])} timesteps with '
      f'{config["signals"]["draws"]} noise draws'
    )
  if config.get('flip') and not of_gans:
    tested += ' and mirror images'
  not_tested = []
  if not lira:
    not_tested.append(
      'online LiRA and RMIA: they need two models in and two out beside each '
      'target (num_models)'
    )
  if 'gsa' not in kinds and page.subject.eps_fn_of and page.subject.train:
    not_tested.append('attacks on gradients: signals.kinds has no gsa')
  return parts.Section(
    title='Membership',
    html=parts.render(
      'sections/membership.html.jinja',
      membership=contents(
        page.run, page.pictures, bool(page.examples.captions), of_gans
      ),
    ),
    finding=finding(summary),
    tested=tested,
    not_tested=tuple(not_tested),
    metrics=metrics,
    controls=controls,
    methods=(
      *_METHODS,
      *(_OF_DISCRIMINATOR if of_gans else ()),
      *(_OTHER_SIGNALS if len(kinds) > 1 and not of_gans else ()),
    ),
  )


def finding(summary: pd.DataFrame) -> str:
  """The attack that was named beforehand, in a sentence."""
  auc = summary[summary['metric'] == 'auc'].set_index(
    ['attack', 'variance', 'timestep_rule']
  )
  best = next(name for name in _HEADLINE if name in auc.index)
  value = parts.number(
    *(auc.loc[best, name] for name in ('value', 'low', 'high'))
  )
  return (
    f'The membership attack {names.title(best[0])} tells members from '
    f'non-members with an AUC of {value}, where 0.5 is a coin toss and 1 '
    'certainty.'
  )


def contents(
  run: layout.Run,
  pictures: galleries.Pictures,
  captions: bool,
  of_gans: bool = False,
) -> dict[str, Any]:
  """What the template needs, by name.

  Args:
    run: whose tables.
    pictures: of the run.
    captions: whether the examples have some.
    of_gans: whether a discriminator was asked, and no noise predictor.
  """
  comparison = tables.read_comparison(membership_paths.Paths(run))
  best = tables.best_rule(comparison)
  paths = membership_paths.Paths(run)
  blind = files.read_csv(paths.blind).iloc[0]
  of_captions = None
  if captions:
    of_captions = tables.of_blind(files.read_csv(paths.blind_captions).iloc[0])
  roc = files.read_csv(membership_paths.Paths(run).roc)
  timesteps = files.read_csv(membership_paths.Paths(run).timesteps)
  losses, others = figures.by_signal(comparison['attack'])
  timestep_figure, metric = figures.timesteps(timesteps, losses)
  studies = files.read_csv(membership_paths.Paths(run).studies)
  return {
    'of_gans': of_gans,
    'best': tables.rows_of(best),
    'others': tables.rows_of(comparison.drop(best.index)),
    'cheaper': cheaper_and_better(best),
    'blind': tables.of_blind(blind),
    'blind_captions': of_captions,
    'roc': figures.roc(roc, losses),
    'other_roc': figures.roc(roc, others) if others else None,
    'timesteps': timestep_figure,
    'timestep_metric': metric,
    'other_timesteps': (
      figures.timesteps(timesteps, others)[0] if others else None
    ),
    'inference': inference(
      files.read_csv(membership_paths.Paths(run).inference)
    ),
    'studies': [
      {
        'name': name,
        'axis': axis,
        'figure': figures.study(studies[studies['study'] == name], axis),
      }
      for name, axis in _STUDIES.items()
      if name in set(studies['study'])
    ],
    'extremes': [
      {
        'kind': kind,
        'attack': rows['attack'].iloc[0],
        'images': [
          {
            'url': pictures.training(row.index_),
            'index': row.index_,
            'margin': f'{row.margin:.3g}',
          }
          for row in rows.itertuples()
        ],
      }
      for kind, rows in files.read_csv(membership_paths.Paths(run).extremes)
      .rename(columns={'index': 'index_'})
      .groupby('kind', sort=False)
    ],
  }


def cheaper_and_better(best: pd.DataFrame) -> list[str]:
  """Sentences on attacks that a cheaper one beats, intervals apart.

  Cheaper: no more queries and no more shadow models, and fewer of one.
  """
  out = []
  for _, dear in best.iterrows():
    cheap = best[
      (best['queries'] <= dear['queries'])
      & (best['shadow_models'] <= dear['shadow_models'])
      & (
        (best['queries'] < dear['queries'])
        | (best['shadow_models'] < dear['shadow_models'])
      )
      & (best['auc_low'] > dear['auc_high'])
    ]
    if cheap.empty:
      continue
    won = cheap.sort_values(['shadow_models', 'queries', 'auc']).iloc[0]
    out.append(f'{_costs(won)} beats {_costs(dear)}.')
  return out


def _costs(row: pd.Series) -> str:
  name = names.title(row['attack'])
  if row['variance'] != '-':
    name += f', {row["variance"]}'
  queries = 'query' if row['queries'] == 1 else 'queries'
  return (
    f'{name} (AUC {row["auc"]:.4f}; {row["queries"]:g} {queries} an image, '
    f'{row["shadow_models"]} shadow models)'
  )


def inference(table: pd.DataFrame) -> list[dict[str, str]]:
  """One row a number of images: median over models, and the range."""
  rows = []
  for count, part in table.groupby('num_images'):
    row = {'num_images': str(count)}
    for name, by_method in part.groupby('suspects'):
      row[name] = parts.number(
        *by_method['share_below_level'].quantile([0.5, 0.0, 1.0])
      )
    rows.append(row)
  return rows
