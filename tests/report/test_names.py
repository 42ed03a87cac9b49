"""Attacks by the names that people know."""

import pytest

from jaxdiff.report import names


@pytest.mark.parametrize(
  ('attack', 'title'),
  [
    ('threshold', 'threshold'), ('strong_lira', 'Strong LiRA'),
    ('strong_offline_rmia', 'Strong offline RMIA'),
    ('summed_lira', 'summed LiRA'), ('secmi', 'SecMI'),
    ('pfami_published_lira', 'PFAMI as published, LiRA'),
    ('gsa', 'gradient norms (GSA)'),
    ('strong_quantile', 'Strong quantile regression'),
    # What a user calls an attack stays so.
    ('their_lira', 'their_lira'), ('mine', 'mine'), ('lira_rmia', 'lira_rmia'),
  ],
)  # fmt: skip
def test_titles(attack, title):
  assert names.title(attack) == title
