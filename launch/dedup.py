"""Which images are there twice? Every pair within a distance, and what to keep.

    launch/local.sh python -m launch.dedup --images=train/ --out=dedup/
    launch/local.sh python -m launch.dedup --images=new/ --against=train/ \
      --out=dedup-new/

Writes dedup.csv, pairs.parquet, kept.txt and dedup.html, which shows pairs by
their distance, so that a threshold can be judged by eye. Nothing is deleted.
The same command again goes on where it was stopped. With --against, images that
have a near-duplicate in another set are listed: new ones among old, training
images among tests.
"""

from absl import flags

from jaxdiff import inputs
from jaxdiff.data import image_sets
from jaxdiff.defences import dedup
from jaxdiff.report import dedup as report
from jaxdiff.runs import files, layout, locks
from jaxdiff.runtime import hardware
from launch import plain

IMAGES = flags.DEFINE_string(
  'images', None, 'A folder of images, an npz, shards.', required=True
)
OUT = flags.DEFINE_string('out', None, 'A new folder.', required=True)
AGAINST = flags.DEFINE_string('against', None, 'Another set to compare with.')
THRESHOLD = flags.DEFINE_float(
  'threshold', 0.02, 'RMSE of near-duplicates, pixels in [0, 1].', 0.0, 1.0
)
PDQ = flags.DEFINE_integer(
  'pdq', None, 'Compare PDQ hashes in place of pixels: bits of 256 that may '
  'differ, 31 by its authors.', 0, 64,
)  # fmt: skip
FLIP = flags.DEFINE_bool('flip', False, 'A mirror image is a copy.')
SHIFT = flags.DEFINE_integer(
  'shift', 0, 'Pixels that a copy may be moved by.', 0, 8
)
IMAGE_SIZE = flags.DEFINE_integer(
  'image_size', 0, 'Sides that are compared; 0 is 64 at most.', 0, 1024
)
KEEP = flags.DEFINE_enum(
  'keep', 'first', dedup.KEEP, 'Which image of a group stays.'
)
ORDER = flags.DEFINE_string(
  'order', None, 'With --keep=order: a text file of names, the best first.'
)
SKIP_BROKEN = flags.DEFINE_bool(
  'skip_broken', False, 'Leave out what cannot be read.'
)
DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Say what it would take, and do nothing.'
)

# An assumption: share of the peak that products reach; of float32 on a matrix
# unit of bfloat16, that many.
_UTILISATION, _PASSES = 0.5, 6
_MOST_ORDER = 2**28


def plan() -> dedup.DedupPlan:
  """What the flags say."""
  if ORDER.present and KEEP.value != 'order':
    raise inputs.InputError('--order: goes with --keep=order')
  if KEEP.value == 'order' and not ORDER.value:
    raise inputs.InputError('--keep=order: name the file: --order=FILE')
  if AGAINST.value is not None and KEEP.value != 'first':
    raise inputs.InputError(
      '--keep: with --against, images stay that have no near-duplicate there'
    )
  if PDQ.value is not None:
    for flag in (THRESHOLD, SHIFT, IMAGE_SIZE):
      if flag.present:
        raise inputs.InputError(
          f'--{flag.name}: is about pixels, which --pdq does not compare'
        )
  images = image_sets.open_set(IMAGES.value, '--images')
  against = None
  if AGAINST.value is not None:
    against = image_sets.open_set(AGAINST.value, '--against')
  if SKIP_BROKEN.value:
    images = images.whole()
    against = against.whole() if against else None
  order: tuple[str, ...] = ()
  if ORDER.value:
    path = inputs.local(ORDER.value, '--order')
    text = inputs.read_bytes(path, _MOST_ORDER).decode('utf-8', 'replace')
    order = tuple(line for line in text.splitlines() if line)
    known = {*images.names, *(name for name, _ in images.skipped)}
    unknown = set(order) - known
    if unknown:
      raise inputs.InputError(
        f'--order: no image {inputs.name_of(sorted(unknown)[0])} in --images'
      )
  return dedup.DedupPlan(
    images=images,
    against=against,
    threshold=THRESHOLD.value,
    flip=FLIP.value,
    shift=SHIFT.value,
    size=IMAGE_SIZE.value,
    keep=KEEP.value,
    order=order,
    pdq=PDQ.value,
  )


def estimate(what: dedup.DedupPlan) -> None:
  """Prints operations and hours, as if no cell were proven far from another."""
  work = dedup.operations(what)
  others = len(what.against or what.images)
  print(
    f'{len(what.images):,} images x {others:,}: {work:.3g} operations at most, '
    f'in {"float32" if what.pdq is None else "int8"}'
  )
  for name, chips, kind in (
    ('v5e-8', 8, 'TPU v5 lite'), ('v5e-256', 256, 'TPU v5 lite'),
    ('H100', 1, 'NVIDIA H100 80GB HBM3'),
  ):  # fmt: skip
    rate = chips * hardware.CHIPS[kind].peak * _UTILISATION
    said = 'peak of int8, twice that of bfloat16'
    if what.pdq is None:
      said = f'bfloat16 peak and {_PASSES} passes of it'
    rate *= 2.0 if what.pdq is not None else 1.0 / _PASSES
    print(
      f'{name}: {work / rate / 3600:.3g} h, at {_UTILISATION:.0%} of the {said}'
    )


def work() -> None:
  """What the flags say."""
  what = plan()
  if DRY_RUN.value:
    estimate(what)
    return
  folder = layout.folder(OUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  with locks.lock(folder):
    files.remove_leftovers(folder)
    found, rows = dedup.write(what, folder)
    page = report.write(what, found, rows, folder)
  kept = int(rows['kept'].sum())
  print(f'dedup: {page}, {kept:,} of {len(rows):,} images stay')


if __name__ == '__main__':
  plain.start(work)
