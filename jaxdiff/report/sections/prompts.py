"""Cliques of generated images by prompt, in the report."""

import collections

from jaxdiff import subjects
from jaxdiff.attacks.extraction import by_prompt
from jaxdiff.metrics import intervals
from jaxdiff.report import galleries, parts, policy
from jaxdiff.runs import files

PLACE = 1.5

_SHOWN = 24
# Sides of the pictures.
_SIZE = 96

_METHODS = (
  'Cliques of one prompt’s generations: Carlini et al., USENIX Security 2023, '
  'section 4.2.',
)


def make(page: parts.Page) -> parts.Section:
  """For which prompts are the generations copies of each other?"""
  table = files.read_csv(by_prompt.Paths(page.run).prompts)
  flagged = table[table['clique_size'] > 0]
  low, high = intervals.binomial(len(flagged), len(table))
  share = parts.number(len(flagged) / len(table), low, high)
  pictured = subjects.given(page.subject.pictured)
  generated, prompts = pictured.images_of(page.run), pictured.prompts
  _, channels = pictured.first_shape()
  first = flagged.head(_SHOWN)
  pictures = generated.decoded(first['medoid'].tolist(), _SIZE, channels)
  keys = 'cliques' if 'cliques' in page.config else 'prompts'
  config = page.config[keys]
  sizes = collections.Counter(prompt for prompt in prompts if prompt)
  few = sum(size < config['min_size'] for size in sizes.values())
  alone = sum(not prompt for prompt in prompts)
  count = len(table)
  return parts.Section(
    title='Prompts',
    html=parts.render(
      'sections/prompts.html.jinja',
      count=count,
      flagged=len(flagged),
      share=share,
      config=config,
      few=few,
      alone=alone,
      gave_up=int(table['gave_up'].sum()),
      rows=[
        {
          'prompt': prompts[row.medoid],
          'image': galleries.png(picture),
          'clique': f'{row.clique_size} of {row.num_images}',
          'distance': f'{row.mean_distance:.3f}',
        }
        for row, picture in zip(first.itertuples(), pictures, strict=True)
      ],
    ),
    finding=(
      f'Of {count:,} prompts, {len(flagged):,} have {config["min_size"]} or '
      'more generated images that are copies of each other.'
    ),
    tested='cliques of generated images by prompt',
    methods=_METHODS,
    metrics=(
      policy.counted('flagged', len(flagged), count),
      policy.Metric('flagged_fraction', len(flagged) / count, low, high, count),
    ),
  )
