"""Keys of the attack on prompts, of every kind that draws from prompts."""

from jaxdiff.schema import folders
from jaxdiff.schema.key import Group, Key

_OF = folders.GROUPS['prompts'][1]

GROUPS: dict[str, Group] = {
  'cliques': (
    'Cliques among the generations of a prompt',
    {name: _OF[name] for name in ('tau', 'min_size', 'grid', 'image_size')}
    | {
      'false_alarm': Key(
        0.0,
        'share of held-out prompts that may be called memorised: tau is '
        'lowered until no more are; 0 leaves it',
        0.0,
        1.0,
        free=True,
        late=True,
      ),
    },
  ),
  'screen': (
    'Screens of prompts, at a few calls each',
    {
      'kinds': Key(
        (),
        'some of x0, dcs, wen_first, cosine, wen_trajectory, agreement, edges; '
        '() leaves them out',
        late=True,
      ),
      'draws': Key(1, 'of noise, of single calls', 1, 1000, late=True),
      'num_seeds': Key(
        4, 'generations that agreement and edges compare', 2, 4096, late=True
      ),
      'num_steps': Key(10, 'denoising steps of these', 1, 10_000, late=True),
      'block_size': Key(256, 'prompts a file', 1, 2**24, late=True),
    },
  ),
  'stream': (
    'Generate and filter: of each prompt, all in one pass',
    {
      'num_seeds': Key(
        0, "generations of each prompt; the paper's are 500; 0 leaves it out",
        0, 2**20, late=True,
      ),
      'by': Key(
        '', 'screen that chooses which prompts are drawn; "" draws all',
        late=True,
      ),
      'top': Key(
        0.01, 'share of prompts with the largest scores that it chooses', 0.0,
        1.0, late=True,
      ),
      'first': Key(
        0, 'seeds that decide: with no two within tau, a prompt is drawn no '
        'further; 0 draws all', 0, 2**20, late=True,
      ),
      'kept': Key(4, 'images of each clique that are kept', 1, 4096, late=True),
      'block_size': Key(4, 'prompts a file', 1, 2**24, late=True),
    },
  ),
  'verify': (
    'Cliques against training images',
    {
      'distance': Key(
        0.15, 'largest, of a copy (RMSE)', 0.0, 1.0, late=True, free=True
      ),
      'eidetic_distance': Key(
        0.1, 'training images so near to a copied one are its copies', 0.0,
        1.0, late=True, free=True,
      ),
      'eidetic_shift': Key(
        0, 'pixels that these may be moved by', 0, 64, late=True, free=True
      ),
    },
  ),
}  # fmt: skip
