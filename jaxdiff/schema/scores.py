"""Keys of scores or signals that a user measured elsewhere."""

from jaxdiff.schema import ensemble
from jaxdiff.schema.key import Group, Key

GROUPS: dict[str, Group] = {
  '': (
    'What is evaluated',
    {
      'subject': Key('scores', 'kind of this config'),
      'name': Key('scores', 'of the evaluation, for the report'),
      'seed': Key(0, 'of everything that is drawn', 0, 2**31 - 1),
      'path': Key(
        '',
        'a table (CSV or Parquet), an npz or JSON of scores, or a folder of '
        'signals (docs/scores.md)',
        free=True,
      ),
      'members': Key(
        '', 'in place of path: npy of the scores of members', free=True
      ),
      'non_members': Key(
        '', 'beside members: npy of the scores of others', free=True
      ),
      'layout': Key(
        'auto', 'of a folder: auto, jaxdiff, tensorflow_privacy or '
        'ml_privacy_meter',
      ),
      'larger_is_member': Key(
        True,
        'whether a larger number of path speaks for a member; False of losses; '
        'layouts that have a convention keep it',
      ),
      'left_out': Key(
        'none',
        'which models are left out of the shadow statistics of a target beside '
        'itself: none, or pairs, of models 2j and 2j + 1 on complementary '
        'halves',
      ),
    },
  ),
  'membership': (
    'Membership',
    {
      'variance': ensemble.GROUPS['membership'][1]['variance'],
      'num_resamples': ensemble.GROUPS['membership'][1]['num_resamples'],
    },
  ),
}  # fmt: skip
