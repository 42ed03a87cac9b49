"""Models whose noise predictions can be asked for, and samples be drawn of."""

from collections.abc import Callable
import functools
from typing import Any

import jax

from jaxdiff import subjects
from jaxdiff.data import examples as examples_lib
from jaxdiff.diffusion import processes, schedules
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.sampling import generate
from jaxdiff.subjects import told as told_lib
from jaxdiff.training import plan as training_plan

# draw(eps_fn, key, indices, cond) -> x0 [B, H, W, C].
Draw = Callable[[processes.EpsFn, jax.Array, jax.Array, Any], jax.Array]


def make(
  *,
  kind: str,
  told: told_lib.Told,
  examples: examples_lib.Examples,
  ensemble: ensemble_lib.Ensemble,
  apply: Callable[..., Any],
  schedule: schedules.Schedule,
  prediction_type: str,
  with_variance: bool,
  null_label: int | None,
  guidance_scale: float,
  draw: Draw,
  train: training_plan.TrainPlan | None = None,
  guarantee: subjects.Guarantee | None = None,
  **sample: Any,
) -> subjects.Subject:
  """What can be asked of models of one net.

  Args:
    kind: in a word or two, for people.
    told: what reports say of them.
    examples: images, and which model trained on which.
    ensemble: the models, and how their weights come back.
    apply: (params, x_t, t, cond) -> what the net predicts.
    schedule: that they were trained with.
    prediction_type: of the net, one of `processes.PREDICTION_TYPES`.
    with_variance: whether samples are drawn with a variance that nets learned.
    null_label: label of no class; None if nets have none.
    guidance_scale: of classifier-free guidance of samples; 1 leaves it out.
    draw: the sampler.
    train: how further models are trained like these; None if nobody knows.
    guarantee: what their training keeps to.
    **sample: further fields of `generate.SamplePlan`.
  """

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

  plan = generate.SamplePlan(sample_fn=sample_fn, ensemble=ensemble, **sample)
  return subjects.Subject(
    kind=kind,
    told=told,
    examples=examples,
    ensemble=ensemble,
    schedule=schedule,
    eps_fn_of=eps_fn_of,
    drawing_eps_fn_of=drawing_eps_fn_of,
    draw=draw,
    samples=plan,
    sample=plan,
    train=train,
    guarantee=guarantee,
  )
