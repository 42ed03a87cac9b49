"""What a report says of its subject, in words."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Told:
  """Plain text, which the page escapes.

  Attributes:
    short: the page's title, after the name of the run.
    title: its heading.
    subject: what was attacked, in a sentence or two.
    limits: what the numbers do not say.
    samples: what extraction looks at: '... give away 10 %'.
    methods: lines on how models are compared.
    not_tested: what no attack on such a subject looks at.
  """

  short: str
  title: str
  subject: str
  limits: str
  samples: str = 'Samples of these models'
  methods: tuple[str, ...] = ()
  not_tested: tuple[str, ...] = ()
