"""Attacks by the names that people know them by."""

_BASES = {
  'threshold': 'threshold', 'lira': 'LiRA', 'rmia': 'RMIA',
  'quantile': 'quantile regression', 'loss': 'loss', 'secmi': 'SecMI',
  'pia': 'PIA', 'pian': 'PIAN', 'pfami': 'PFAMI', 'sima': 'SimA',
  'rediffuse': 'ReDiffuse', 'gsa': 'gradient norms (GSA)', 'clid': 'CLiD',
  'discriminator': 'discriminator',
  'relativistic': 'relativistic discriminator',
}  # fmt: skip
# Which are no signals that others could calibrate.
_CALIBRATED = ('threshold', 'lira', 'rmia', 'quantile')
_BEFORE = {'strong_': 'Strong ', 'summed_': 'summed ', 'offline_': 'offline '}


def title(attack: str) -> str:
  """'Strong offline LiRA' of 'strong_offline_lira'; others as they are."""
  rest, before = attack, ''
  for prefix, words in _BEFORE.items():
    if rest.startswith(prefix):
      rest, before = rest.removeprefix(prefix), before + words
  if rest in _BASES:
    return before + _BASES[rest]
  signal, after = rest, ''
  for suffix, words in (('_lira', ', LiRA'), ('_rmia', ', RMIA')):
    if rest.endswith(suffix) and rest.removesuffix(suffix) not in _CALIBRATED:
      signal, after = rest.removesuffix(suffix), words
  base = signal.removesuffix('_published')
  published = '' if base == signal else ' as published'
  if base not in _BASES:
    return attack
  return f'{before}{_BASES[base]}{published}{after}'
