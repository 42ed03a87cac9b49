"""Generate and filter, in the report."""

from jaxdiff import subjects
from jaxdiff.attacks.prompts import paths
from jaxdiff.report import figures, galleries, parts, policy
from jaxdiff.runs import files

PLACE = 1.4

_SHOWN, _SIZE = 24, 96
_METHODS = (
  'Cliques of one prompt’s generations: Carlini et al., USENIX Security 2023, '
  'section 4.2.',
)
_KINDS = {
  'asked': 'asked: all that are not held out',
  'trained': 'images were trained on',
  'held_out': 'held out: no image was trained on',
}


def make(page: parts.Page) -> parts.Section:
  """For which prompts are the generations copies of each other?"""
  where = paths.Paths(page.run)
  table, totals = files.read_csv(where.table), files.read_csv(where.totals)
  config = page.config
  found = table[table['found'] > 0]
  kinds = totals.set_index('kind')
  held_out = kinds.loc['held_out'] if 'held_out' in kinds.index else None
  # All are held out only where nothing else was asked.
  asked = kinds.loc['asked'] if 'asked' in kinds.index else kinds.iloc[0]
  texts = subjects.given(page.subject.prompted).texts
  several = table['model'].nunique() > 1
  rows = [
    {
      'prompt': texts[row.number],
      'image': _picture(page, row),
      'clique': f'{row.clique_size} of {row.num_images}',
      'least_tau': f'{row.least_tau:.3f}',
      'model': f', model {row.model}' if several else '',
      'held_out': row.trained == 0,
    }
    for row in found.head(_SHOWN).itertuples()
  ]
  pairs = 'pairs of a model and a prompt' if several else 'prompts'
  numbers = (asked['value'], asked['low'], asked['high'])
  metrics = [
    policy.counted('found', asked['found'], asked['prompts']),
    policy.Metric('found_fraction', *numbers, asked['prompts']),
  ]
  beside = ''
  if held_out is not None:
    low, high = held_out['low'], held_out['high']
    metrics.append(
      policy.Metric(
        'held_out_fraction', held_out['value'], low, high, held_out['prompts']
      )
    )
    beside = (
      f' Of {held_out["prompts"]:,} that no model saw, '
      f'{held_out["found"]:,} have.'
    )
  return parts.Section(
    title='Memorised prompts',
    html=parts.render(
      'sections/stream.html.jinja',
      pairs=pairs,
      count=int(asked['prompts']),
      found=int(asked['found']),
      share=parts.number(*numbers),
      stream=config['stream'],
      cliques=config['cliques'],
      tau=f'{max(asked["tau"], 0.0):.3g}',
      totals=[
        {
          'kind': _said(row.kind),
          'prompts': f'{row.prompts:,}',
          'found': f'{row.found:,}',
          'share': parts.number(row.value, row.low, row.high),
        }
        for row in totals.itertuples()
      ],
      stopped=int(asked['stopped']),
      lost=f'{asked["lost"]:.3g}',
      gave_up=int(table['gave_up'].sum()),
      held_out=held_out is not None,
      may_hold_out='held_out_prompts' in config,
      rows=rows,
      figure=parts.svg_url(figures.least_tau(table, asked['tau'])),
    ),
    finding=(
      f'Of {int(asked["prompts"]):,} {pairs}, {int(asked["found"]):,} have '
      f'{config["cliques"]["min_size"]} or more of '
      f'{config["stream"]["num_seeds"]} generations that are copies of each '
      f'other.{beside}'
    ),
    tested='cliques of generated images by prompt',
    methods=_METHODS,
    metrics=tuple(metrics),
  )


def _said(kind: str) -> str:
  """Of a row of totals."""
  if kind.startswith('copies='):
    number = int(kind.partition('=')[2])
    return f'{number} training image{"s" if number > 1 else ""}'
  return _KINDS[kind]


def _picture(page: parts.Page, row) -> str:
  """Data URL of the image that stands for a clique."""
  path = paths.Paths(page.run).picture(row.model, row.number, row.medoid)
  return galleries.png(galleries.read(path, _SIZE))
