"""The examples of a run, and which model trained on which."""

import dataclasses

import numpy as np

from jaxdiff.data import datasets, splits


@dataclasses.dataclass(frozen=True)
class Examples:
  """What models trained on, or might have: members and non-members together.

  Attributes:
    images: uint8 [N, H, W, C]; [N, 0, 0, 0] where scores alone are known.
    labels: int32 [N], the classes.
    num_classes: how many there may be.
    cond: int32 [N, ...], what nets are told of each example; None: nothing.
    group: int [N]; examples of one group (source) are not independent, and
      fall into one half of every split.
    image: int [N], equal for near-duplicates, which count as one image.
    keep: bool [K, N], which model trained on which example.
    left_out: int [K]; models of one number are left out of each other's shadow
      statistics (`splits.left_out_together`).
    paired: whether models come in pairs on complementary halves.
    flip: whether a mirror image counts as the image.
    targets: bool [K], the models that are attacked; others are references
      alone. None: every model is.
    captions: [N] of the examples; () where there are none.
  """

  images: np.ndarray
  labels: np.ndarray
  num_classes: int
  cond: np.ndarray | None
  group: np.ndarray
  image: np.ndarray
  keep: np.ndarray
  left_out: np.ndarray
  paired: bool = True
  flip: bool = False
  targets: np.ndarray | None = None
  captions: tuple[str, ...] = ()

  def __len__(self) -> int:
    return len(self.images)

  def fingerprint(self) -> str:
    """SHA-256 over images and labels, for provenance."""
    return datasets.fingerprint(self.images, self.labels)

  @property
  def num_models(self) -> int:
    return len(self.keep)

  @property
  def attacked(self) -> np.ndarray:
    """The models that are attacked: bool [K]."""
    if self.targets is None:
      return np.ones(self.num_models, bool)
    return self.targets

  def of_targets(self) -> 'Examples':
    """The same without references, which come after all targets."""
    count = int(self.attacked.sum())
    return dataclasses.replace(
      self,
      keep=self.keep[:count],
      left_out=self.left_out[:count],
      targets=None,
    )

  @property
  def shape(self) -> tuple[int, int, int]:
    """[H, W, C] of an image."""
    height, width, channels = self.images.shape[1:]
    return height, width, channels

  def cond_of(self, rows: np.ndarray) -> np.ndarray | None:
    """`cond` of some examples."""
    return None if self.cond is None else self.cond[rows]


def split(
  dataset: datasets.Dataset,
  seed: int,
  num_models: int,
  *,
  rule: str,
  conditional: bool,
  flip: bool,
  cond: np.ndarray | None = None,
) -> Examples:
  """A set of images, and what each of so many models trains on of it.

  Args:
    dataset: the set.
    seed: of the split.
    num_models: K.
    rule: one of `splits.SPLITS`.
    conditional: whether nets are told the labels.
    flip: whether a mirror image counts as the image.
    cond: int32 [N, ...], what nets are told where it is no label.
  """
  return Examples(
    images=dataset.images,
    labels=dataset.labels,
    num_classes=dataset.num_classes,
    cond=dataset.labels if conditional else cond,
    group=dataset.group,
    image=dataset.image,
    keep=splits.keep_matrix(
      seed, range(num_models), dataset.group, rule, dataset.image
    ),
    left_out=splits.left_out_together(num_models, rule),
    paired=rule == 'paired',
    flip=flip,
    captions=dataset.captions,
  )
