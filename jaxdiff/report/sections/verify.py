"""Cliques of prompts against training images, in the report."""

from jaxdiff import subjects
from jaxdiff.attacks.prompts import paths
from jaxdiff.report import figures, followups, galleries, parts, policy
from jaxdiff.runs import files

PLACE = 1.41

_SHOWN, _SIZE = 24, 96


def make(page: parts.Page) -> parts.Section:
  """Are memorised prompts copies of training images?"""
  where = paths.Paths(page.run)
  found, row = files.read_csv(where.verified), files.read_csv(where.precision)
  row = row.iloc[0]
  examples = page.examples
  texts = subjects.given(page.subject.prompted).texts
  copied = found[found['extracted'] > 0].drop_duplicates('nearest')
  copies = copied['eidetic'].to_numpy(int)
  said = found[found['memorised'].notna()]
  of_copies = said[said['extracted'] > 0]
  return parts.Section(
    title='Prompts against training images',
    html=parts.render(
      'sections/verify.html.jinja',
      count=len(found),
      extracted=int(row['extracted']),
      control=int(row['control_hits']),
      num_training=int(row['num_training']),
      num_control=int(row['num_control']),
      precision=parts.number(row['precision'], row['low'], row['high']),
      own=int((found['own_distance'] <= found['distance'] + 1e-5).sum()),
      distance=page.config['verify']['distance'],
      annotated=len(said),
      of_copies=len(of_copies),
      agreed=int(of_copies['memorised'].sum()),
      missed=int(said['memorised'].sum() - of_copies['memorised'].sum()),
      delta=page.config['verify']['eidetic_distance'],
      single=int((copies <= 1).sum()),
      figure=parts.svg_url(figures.by_rank(found)) if len(found) else None,
      copies_figure=(
        parts.svg_url(followups.copies_figure(copied.assign(copies=copies)))
        if len(copies)
        else None
      ),
      rows=[
        {
          'prompt': texts[each.number],
          'training': galleries.png(examples.images[int(each.nearest)]),
          'sample': galleries.png(
            galleries.read(
              where.picture(each.model, each.number, each.medoid), _SIZE
            )
          ),
          'distance': f'{each.distance:.3f}',
        }
        for each in copied.head(_SHOWN).itertuples()
      ],
    ),
    finding=(
      f'{int(row["extracted"]):,} training images, counted for each model, are '
      'what the generations of a memorised prompt are copies of.'
      if row['extracted']
      else ''
    ),
    tested='cliques of prompts against training images',
    metrics=(
      policy.counted('extracted', row['extracted'], row['num_training']),
      policy.counted('control_hits', row['control_hits'], row['num_control']),
      policy.Metric(
        'precision', row['precision'], row['low'], row['high'],
        row['extracted'],
      ),
    ),
  )  # fmt: skip
