"""Tables of the inpainting attack, from what was drawn and judged."""

from etils import epy
import numpy as np
import pandas as pd

from jaxdiff.attacks.inpainting import attack as inpainting_attack
from jaxdiff.attacks.inpainting import draw, paths
from jaxdiff.metrics import intervals
from jaxdiff.runs import blocks, files, layout

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import stats

# Images shown, of each mask and kind.
_EXAMPLES = 4


def table(
  plan: inpainting_attack.InpaintingPlan, run: layout.Run
) -> pd.DataFrame:
  """One row an image, mask and target model; smallest ratios kept.

  Columns: mask, pair, index, target, member, shadow_models, draws, kept, ratio
  (mean of those kept), best_draw, distance (mean RMSE of those kept to the
  original), distance_all (mean over all draws), distance_nearest (the nearest
  draw: no attack, it needs the original).
  """
  images = inpainting_attack.attacked(plan)
  shape = (
    plan.examples.num_models,
    plan.num_images,
    len(plan.masks),
    plan.draws,
  )
  rows = []
  loss = np.stack(
    [
      blocks.read_rows(
        run,
        paths.Paths(run).losses,
        model,
        plan.examples.num_models * plan.rows,
        plan.block_size,
        ('loss',),
      )['loss'].reshape(shape)
      for model in range(plan.examples.num_models)
    ]
  )
  for m, mask in enumerate(plan.masks):
    for target in range(plan.examples.num_models):
      for place, index in enumerate(images[target // 2]):
        others = inpainting_attack.shadows(plan, target, index)
        loss_of_draw = loss[:, target, place, m]
        ratio = loss_of_draw[target] / loss_of_draw[others].mean(axis=0)
        best = np.argsort(ratio, kind='stable')[: plan.kept]
        painted = draw.inpaintings_of(plan, run, target, place, m)
        error = (
          painted.astype(np.float64) - plan.examples.images[index]
        ) / 255.0
        distance = np.sqrt(np.square(error).mean(axis=(1, 2, 3)))
        rows.append(
          {
            'mask': mask, 'pair': target // 2, 'index': index,
            'target': target, 'member': int(plan.examples.keep[target, index]),
            'shadow_models': len(others), 'draws': plan.draws,
            'kept': len(best), 'ratio': ratio[best].mean(),
            'best_draw': best[0], 'distance': distance[best].mean(),
            'distance_all': distance.mean(),
            'distance_nearest': distance.min(),
          }
        )  # fmt: skip
  return pd.DataFrame(rows)


def compare(
  rows: pd.DataFrame, column: str
) -> dict[str, tuple[float, float, float]]:
  """Trained on it against not: metric -> (value, low, high).

  Intervals are of order statistics and exact; without one below six images.
  Metrics: 'member' and 'other', the median distance; 'difference', other minus
  member, its median; 'share_below', of images nearer to the original when it
  was trained on; 'p_value' of the one-sided signed-rank test of that. An image
  that several pairs were attacked on counts once, by its mean.

  Args:
    rows: of `table`, of one mask.
    column: whose distances.
  """
  wide = rows.pivot_table(index='index', columns='member', values=column)
  member, other = wide[1].to_numpy(), wide[0].to_numpy()
  below = int((member < other).sum())
  if np.array_equal(member, other):
    p_value = 1.0
  else:
    p_value = stats.wilcoxon(member, other, alternative='less').pvalue
  return {
    'member': intervals.median(member),
    'other': intervals.median(other),
    'difference': intervals.median(other - member),
    'share_below': (
      below / len(wide), *intervals.binomial(below, len(wide))
    ),
    'p_value': (float(p_value), np.nan, np.nan),
  }  # fmt: skip


def examples(
  plan: inpainting_attack.InpaintingPlan, run: layout.Run, rows: pd.DataFrame
) -> dict[str, np.ndarray]:
  """Images to look at (paper, figure 14), of each mask.

  The _EXAMPLES with the largest difference, then as many of the others, in
  their order: mask [E], index [E], and uint8 [E, H, W, C] `masked` (hidden
  pixels grey), `member` and `other`: the best draw of the model that trained
  on the image, and of the one that did not.
  """
  names = ('mask', 'index', 'masked', 'member', 'other')
  out: dict[str, list] = {name: [] for name in names}
  places = {
    (target // 2, index): place
    for target in range(0, plan.examples.num_models, 2)
    for place, index in enumerate(inpainting_attack.attacked(plan)[target // 2])
  }
  for m, mask in enumerate(plan.masks):
    of_mask = rows[rows['mask'] == mask]
    wide = of_mask.pivot_table(
      index=['pair', 'index'], columns='member', values='distance', sort=False
    )
    order = (wide[1] - wide[0]).sort_values(kind='stable').index
    first = list(order[:_EXAMPLES])
    rest = [case for case in wide.index if case not in first]
    for pair, index in first + rest[:_EXAMPLES]:
      known = inpainting_attack.known_pixels(plan, m, index)
      out['mask'].append(mask)
      out['index'].append(index)
      out['masked'].append(
        np.where(known, plan.examples.images[index], np.uint8(128))
      )
      for name, member in (('member', 1), ('other', 0)):
        row = of_mask[
          (of_mask['pair'] == pair)
          & (of_mask['index'] == index)
          & (of_mask['member'] == member)
        ].iloc[0]
        drawn = draw.inpaintings_of(
          plan, run, row['target'], places[pair, index], m
        )
        out[name].append(drawn[row['best_draw']])
  return {name: np.array(values) for name, values in out.items()}


def analyse(plan: inpainting_attack.InpaintingPlan, run: layout.Run) -> None:
  """Reads stored evidence; writes the tables and the examples."""
  rows = table(plan, run)
  files.write_csv(paths.Paths(run).images, rows)
  files.write_npz(paths.Paths(run).examples, **examples(plan, run, rows))
  counts = {
    'draws': plan.draws,
    'kept': min(plan.kept, plan.draws),
    'num_images': rows['index'].nunique(),
    **plan.settings,
  }
  summary = pd.DataFrame(
    [
      {
        'mask': mask, 'selection': selection, 'metric': metric,
        'value': value, 'low': low, 'high': high, **counts,
      }
      for mask, of_mask in rows.groupby('mask', sort=False)
      for selection, column in (
        ('kept', 'distance'), ('all', 'distance_all'),
        ('nearest', 'distance_nearest'),
      )
      for metric, (value, low, high) in compare(of_mask, column).items()
    ]
  )  # fmt: skip
  files.write_csv(paths.Paths(run).summary, summary)
