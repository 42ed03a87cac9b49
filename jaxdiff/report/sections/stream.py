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
  'all': 'all prompts',
  'trained': 'images were trained on',
  'held_out': 'held out: no image was trained on',
}


def make(page: parts.Page) -> parts.Section:
  """For which prompts are the generations copies of each other?"""
  where = paths.Paths(page.run)
  table, totals = files.read_csv(where.table), files.read_csv(where.totals)
  config = page.config
  found = table[table['found'] > 0]
  every = totals.set_index('kind').loc['all']
  texts = subjects.given(page.subject.prompted).texts
  several = table['model'].nunique() > 1
  rows = [
    {
      'prompt': texts[row.number],
      'image': _picture(page, row),
      'clique': f'{row.clique_size} of {row.num_images}',
      'least_tau': f'{row.least_tau:.3f}',
      'model': f', model {row.model}' if several else '',
    }
    for row in found.head(_SHOWN).itertuples()
  ]
  pairs = 'pairs of a model and a prompt' if several else 'prompts'
  count = int(every['prompts'])
  numbers = (len(found) / count, every['low'], every['high'])
  return parts.Section(
    title='Memorised prompts',
    html=parts.render(
      'sections/stream.html.jinja',
      pairs=pairs,
      count=count,
      found=len(found),
      share=parts.number(*numbers),
      stream=config['stream'],
      cliques=config['cliques'],
      tau=f'{every["tau"]:.3g}',
      totals=[
        {
          'kind': _said(row.kind),
          'prompts': f'{row.prompts:,}',
          'found': f'{row.found:,}',
          'share': parts.number(row.value, row.low, row.high),
        }
        for row in totals.itertuples()
      ],
      stopped=int(every['stopped']),
      lost=f'{every["lost"]:.3g}',
      gave_up=int(every['gave_up']),
      held_out=bool((totals['kind'] == 'held_out').any()),
      rows=rows,
      figure=parts.svg_url(figures.least_tau(table, every['tau'])),
    ),
    finding=(
      f'Of {count:,} {pairs}, {len(found):,} have '
      f'{config["cliques"]["min_size"]} or more of '
      f'{config["stream"]["num_seeds"]} generations that are copies of each '
      'other.'
    ),
    tested='cliques of generated images by prompt',
    methods=_METHODS,
    metrics=(
      policy.Metric('found', len(found), len(found), len(found), count),
      policy.Metric('found_fraction', *numbers, count),
    ),
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
