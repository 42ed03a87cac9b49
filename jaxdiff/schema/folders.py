"""Keys of a folder of generated images, audited against its training images."""

from jaxdiff.schema import ensemble
from jaxdiff.schema.key import Group, Key

_WHAT = 'image files in a folder, zip, tar or Parquet; or an npz or npy'

GROUPS: dict[str, Group] = {
  '': (
    'What is audited',
    {
      'subject': Key('folders', 'kind of this config'),
      'name': Key('folders', 'of the audit, for the report'),
      'seed': Key(0, 'of everything that is drawn', 0, 2**31 - 1),
      'generated': Key('', f'the generator: {_WHAT}', free=True),
      'training': Key(
        '',
        f'what it was trained on: {_WHAT}; may be left out where prompts.of '
        'says which images share a prompt',
        free=True,
      ),
      'holdout': Key(
        '',
        'images of the same source that it was not trained on, without which '
        f'no finding has a known error rate: {_WHAT}',
        free=True,
      ),
      'references': Key(
        '',
        'samples of generators that were trained on other images of the same '
        'source, separated by commas; two or more calibrate membership',
        free=True,
      ),
      'image_size': Key(
        0,
        'sides of all images, cropped to a square and resized; 0 is the '
        'shorter side of the first training image, 64 at most, and a multiple '
        'of extraction.tiles',
        0,
        4096,
      ),
      'channels': Key(
        0, '1 is grey, 3 colour; 0 is what the first training image has', 0, 3
      ),
      'flip': Key(False, 'a mirror image counts as the image'),
      'skip_broken': Key(False, 'leave out what cannot be read, and list it'),
    },
  ),
  'sample': (
    'Generated images in the run folder',
    {'block_size': Key(4096, 'images a file', 1, 2**24)},
  ),
  'prompts': (
    'Cliques by prompt',
    {
      'of': Key(
        '',
        "which generated images share a prompt: 'folders', one a sub-folder; "
        'or a metadata.csv or .jsonl with file_name and prompt (or text)',
        free=True,
        late=True,
      ),
      'tau': Key(0.1, 'largest tiled distance of a pair', 0.0, 1.0, late=True),
      'min_size': Key(10, 'images of a clique that counts', 2, 4096, late=True),
      'grid': Key(4, 'tiles along each side', 1, 64, late=True),
      'image_size': Key(
        0,
        'sides of the images; 0 is the shorter side of the first generated '
        'image, 512 at most',
        0,
        4096,
        late=True,
      ),
    },
  ),
  'second_opinion': (
    'Copies by other descriptors than pixels',
    {
      'pdq': Key(
        False,
        'PDQ hashes, for images above 64 pixels (the extra pdq)',
        late=True,
      ),
      'embeddings': Key(
        '',
        'an npz with float arrays generated, training and holdout, [n, D], in '
        'the order of the names, or with generated_names and so on',
        free=True,
        late=True,
      ),
      'background': Key(
        0.001,
        'share of new images that may be called copies, by the distances '
        'between training images',
        0.0,
        0.5,
        late=True,
      ),
    },
  ),
  'nearest_sample': ensemble.GROUPS['nearest_sample'],
  'membership': (
    'Membership',
    {
      'num_resamples': ensemble.GROUPS['membership'][1]['num_resamples'],
    },
  ),
  'quality': ensemble.GROUPS['quality'],
  'extraction': ensemble.GROUPS['extraction'],
}
