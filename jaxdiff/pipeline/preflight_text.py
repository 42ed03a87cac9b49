"""What people read of a preflight."""

from collections.abc import Sequence
import math

from jaxdiff import plans as plans_lib
from jaxdiff.pipeline import compiled, preflight
from jaxdiff.plans import stage as stage_lib


def line(checked: preflight.Checked, where: preflight.Slice) -> str:
  """One program, for people."""
  name = f'{where.name} {checked.program}'
  limit = where.chip.memory / 1e9
  facts = checked.facts
  if facts is None or not preflight.fits(checked, where):
    return f'{name}: {checked.bytes / 1e9:.3g} of {limit:.3g} GB: TOO MUCH'
  parts = [
    f'{checked.bytes / 1e9:.3g} of {limit:.3g} GB '
    f'({facts.argument_bytes / 1e9:.3g} arguments, '
    f'{facts.output_bytes / 1e9:.3g} outputs, '
    f'{facts.temporary_bytes / 1e9:.3g} temporary)',
    f'{facts.flops / 1e9:,.4g} GFLOP, '
    f'{facts.bytes_accessed / 1e9:.3g} GB accessed',
  ]
  seconds, share = checked.seconds(where.chip), checked.share(where.chip)
  if seconds is not None:
    took = f'{1e3 * seconds:.3g} ms by cycles'
    if facts.optimal_seconds > 0:
      took += f' ({1e3 * facts.optimal_seconds:.3g} by the compiler)'
    parts.append(took + (f', {share:.0%} of the peak' if share else ''))
  if facts.unbounded:
    parts.append(f'{facts.unbounded} loops of unknown length, counted once')
  if facts.unestimated:
    listed = ', '.join(f'{k} {v}' for k, v in facts.unestimated.items())
    parts.append(f'without an estimate: {listed}')
  parts.append(_talk(facts.collectives))
  if facts.float64:
    parts.append('64-bit floats')
  if seconds is not None and checked.calls:
    hours = seconds * checked.calls / 3600
    parts.append(f'{checked.calls:,.6g} calls: {hours:.3g} h')
  parts.append(f'compiled in {checked.compile_seconds:.0f} s')
  return f'{name}: ' + '; '.join(parts)


def _talk(collectives: Sequence[compiled.Collective]) -> str:
  if not collectives:
    return 'no collective'
  totals: dict[tuple[str, tuple[str, ...]], list[int]] = {}
  for each in collectives:
    total = totals.setdefault((each.kind, each.axes), [0, 0])
    total[0] += each.bytes
    total[1] += each.calls
  return ', '.join(
    f'{kind} along {"+".join(axes) or "nothing"}: {size / 1e6:.3g} MB in '
    f'{count}'
    for (kind, axes), (size, count) in totals.items()
  )


def refusal(
  stage: stage_lib.Stage,
  failed: preflight.Checked,
  change: dict[str, int] | None,
  where: preflight.Slice,
) -> str:
  """One line: what does not fit, and with what it would."""
  said = (
    f'{failed.program}: {failed.bytes / 1e9:.3g} of '
    f'{where.chip.memory / 1e9:.3g} GB on {where.name}: '
  )
  if change is None:
    tried = ', '.join(stage.smaller) or 'nothing'
    return said + (
      f'no setting that changes no result makes it fit (tried: {tried}); take '
      'chips with more memory'
    )
  listed = ' and '.join(f'{key}={value}' for key, value in change.items())
  return said + f'set {listed}, with which it fits'


def advice(plans: plans_lib.Plans, where: preflight.Slice) -> str:
  """What would keep chips busier, at the same result; '' if nothing would."""
  train = plans.subject.train
  if train is None:
    return ''
  ensemble, count = train.ensemble, len(where.devices)
  together = min(ensemble.models_per_block, ensemble.num_models)

  def shares(models: int) -> int:
    return count // math.gcd(models, count)

  sharing = shares(together)
  best = min(range(1, min(ensemble.num_models, count) + 1), key=shares)
  if shares(best) == sharing or ensemble.devices_per_model:
    return ''
  return (
    f'{where.name}: {sharing} devices share a model of {together} at a time: '
    f'with --config.train.models_per_block={best} it is {shares(best)}, and '
    'each has more to do'
  )
