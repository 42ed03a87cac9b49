"""steps.csv and steps.html: memorisation and quality as training went on.

The paper's figure 12 (section 5.2.3), with extraction beside membership and an
interval on everything.
"""

from etils import epath
import pandas as pd

from jaxdiff.report import figures_of_runs, parts, sweep
from jaxdiff.runs import files, layout


def results(run: layout.Run) -> pd.DataFrame:
  """As `sweep.results`, and `sweep.quality`."""
  return pd.concat([sweep.results(run), sweep.quality(run)], ignore_index=True)


def write(
  name: str, by_step: dict[int, layout.Run], run: layout.Run
) -> epath.Path:
  """Writes steps.csv and steps.html; returns the page.

  Args:
    name: of the experiment.
    by_step: finished attacks by training step, rising.
    run: where to.
  """
  table = pd.concat(
    [results(part).assign(step=step) for step, part in by_step.items()],
    ignore_index=True,
  )[['step', 'metric', 'value', 'low', 'high']]
  files.write_csv(run.steps_table, table)
  metrics = list(dict.fromkeys(table['metric']))
  rows = []
  for step, group in table.groupby('step'):
    row = {'step': step}
    for _, line in group.iterrows():
      row[line['metric']] = parts.of_row(line)
    rows.append(row)
  ends = tuple(sweep.REFERENCES.values())
  quality = [m for m in metrics if m.endswith(ends)]
  # A rate that too few images can show has no value.
  measured = set(table['metric'][table['value'].notna()])
  given_away = [m for m in metrics if m not in quality and m in measured]
  text = parts.render(
    'steps.html.jinja',
    name=name,
    figure=parts.svg_url(figures_of_runs.steps(table, given_away, quality)),
    metrics=metrics,
    rows=rows,
  )
  files.write(run.steps_page, text.encode())
  return run.steps_page
