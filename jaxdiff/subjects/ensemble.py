"""The ensemble that a run trains itself: it gives all that there is."""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax.sharding import Mesh

from jaxdiff import subjects
from jaxdiff.diffusion import processes, schedules
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runs import layout
from jaxdiff.sampling import generate
from jaxdiff.subjects import told as told_lib
from jaxdiff.training import block_states
from jaxdiff.training import plan as training_plan

# draw(eps_fn, key, indices, cond) -> x0 [B, H, W, C].
Draw = Callable[[processes.EpsFn, jax.Array, jax.Array, Any], jax.Array]


def make(
  *,
  told: told_lib.Told,
  train: training_plan.TrainPlan,
  apply: Callable[..., Any],
  schedule: schedules.Schedule,
  prediction_type: str,
  with_variance: bool,
  null_label: int | None,
  guidance_scale: float,
  draw: Draw,
  step: int | None,
  **sample: Any,
) -> subjects.Subject:
  """The models that `train` makes, and what can be asked of them.

  Args:
    told: what reports say of them.
    train: how they are trained.
    apply: (params, x_t, t, cond) -> what the net predicts.
    schedule: that they were trained with.
    prediction_type: of the net, one of `processes.PREDICTION_TYPES`.
    with_variance: whether samples are drawn with a variance that nets learned.
    null_label: label of no class; None if nets have none.
    guidance_scale: of classifier-free guidance of samples; 1 leaves it out.
    draw: the sampler.
    step: a checkpoint in the midst of training; None is its end.
    **sample: further fields of `generate.SamplePlan`.
  """

  def restore(block: layout.ModelBlock, mesh: Mesh) -> Any:
    return block_states.restore_ema(train, block, mesh, step)

  def eps_fn_of(params: Any, variance: bool = False) -> processes.EpsFn:
    return processes.make_eps_fn(
      functools.partial(apply, params),
      schedule,
      prediction_type,
      with_variance=variance,
    )

  def drawing_eps_fn_of(params: Any) -> processes.EpsFn:
    eps_fn = eps_fn_of(params, with_variance)
    if guidance_scale != 1.0:
      eps_fn = processes.guide(eps_fn, null_label, guidance_scale)
    return eps_fn

  def sample_fn(params, key, indices, cond):
    return draw(drawing_eps_fn_of(params), key, indices, cond)

  ensemble = ensemble_lib.Ensemble(
    seed=train.ensemble.seed,
    num_models=train.ensemble.num_models,
    models_per_block=train.ensemble.models_per_block,
    devices_per_model=train.ensemble.devices_per_model,
    restore=restore,
  )
  plan = generate.SamplePlan(sample_fn=sample_fn, ensemble=ensemble, **sample)
  return subjects.Subject(
    kind='an ensemble trained by the run',
    told=told,
    examples=train.examples,
    ensemble=ensemble,
    schedule=schedule,
    eps_fn_of=eps_fn_of,
    drawing_eps_fn_of=drawing_eps_fn_of,
    draw=draw,
    samples=plan,
    sample=plan,
    train=train,
  )
