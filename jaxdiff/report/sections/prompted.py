"""Images drawn from prompts, in the report."""

import numpy as np

from jaxdiff import subjects
from jaxdiff.report import parts

PLACE = 1.2

# Prompts that are shown, and images of each.
_PROMPTS, _SEEDS = 24, 4

_METHODS = (
  'Classifier-free guidance: Ho, Salimans, 2022. Latent diffusion: Rombach, '
  'Blattmann, Lorenz, Esser, Ommer, CVPR 2022.',
)


def make(page: parts.Page) -> parts.Section:
  """What does the pipeline draw?"""
  plan = subjects.given(page.subject.prompted)
  count = len(plan.texts)
  seeds = plan.num_samples // count
  shown = range(min(count, _PROMPTS))
  numbers = {
    prompt: prompt + count * np.arange(min(seeds, _SEEDS)) for prompt in shown
  }
  return parts.Section(
    title='Images by prompt',
    html=parts.render(
      'sections/prompted.html.jinja',
      count=count,
      seeds=seeds,
      again=len(plan.table) - count,
      rows=[
        {
          'prompt': plan.texts[prompt],
          'images': [
            {'url': page.pictures.sample(0, int(number)), 'seed': seed}
            for seed, number in enumerate(numbers[prompt])
          ],
        }
        for prompt in shown
      ],
    ),
    methods=_METHODS,
  )
