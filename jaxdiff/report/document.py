"""report.json: what the report says, for programs.

Its fields and their meaning are in `report.schema.json`, beside this module.
Numbers that the data cannot say are null, and so is infinity; arrays stay in
the tables, whose SHA-256 it gives.
"""

from collections.abc import Iterable, Mapping, Sequence
import importlib.resources
import json
import math
from typing import Any

from jaxdiff import schema
from jaxdiff.report import parts, policy
from jaxdiff.runs import files

VERSION = '1.0'


def published_schema() -> dict[str, Any]:
  """The JSON Schema (2020-12) of report.json."""
  text = importlib.resources.files(__package__).joinpath('report.schema.json')
  return json.loads(text.read_text('utf-8'))


def write(
  page: parts.Page,
  written: Mapping[str, parts.Section],
  rules: Sequence[policy.Rule],
) -> list[policy.Verdict]:
  """Writes report.json.

  Args:
    page: of the report.
    written: its sections, by the name of their stage.
    rules: that are judged.

  Returns:
    What came of each rule.
  """
  metrics = {
    f'{stage}.{metric.name}': metric
    for stage, section in written.items()
    for metric in section.metrics
  }
  controls = {
    f'{stage}.{metric.name}': metric
    for stage, section in written.items()
    for metric in section.controls
  }
  verdicts = [policy.judge(rule, metrics.get(rule.field)) for rule in rules]
  provenance = json.loads(page.run.provenance.read_text())
  told = page.subject.told
  examples = page.examples
  document = {
    'schema_version': VERSION,
    'name': page.name,
    'subject': {
      'kind': schema.kind_of(page.config),
      'description': told.subject,
      'sha256': provenance['inputs'],
    },
    'data': {
      'sha256': provenance['data_sha256'],
      'num_examples': len(examples),
      'num_models': examples.num_models,
      'num_members': [int(row.sum()) for row in examples.keep],
      'skipped': page.num_left_out,
    },
    'settings': settings_of(page.config),
    'metrics': _rows(metrics),
    'controls': _rows(controls),
    'policies': [
      {
        'rule': verdict.rule.text,
        'field': verdict.rule.field,
        'bound': verdict.rule.bound,
        'status': verdict.status,
        'observed': _ends(verdict.observed),
      }
      for verdict in verdicts
    ],
    'tested': [x.tested for x in written.values() if x.tested],
    'not_tested': list(page.not_tested(written)),
    'limits': told.limits,
    'warnings': policy.warnings_of(rules),
    'tables': files.read_json(page.run.tables),
    'software': provenance['environments'][-1]['versions'],
    'seed': page.config['seed'],
  }
  files.write_json(page.run.document, plain(document))
  return verdicts


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """Keys that results depend on; paths say nothing elsewhere."""
  keys = schema.KEYS[schema.kind_of(config)]
  return {
    name: value
    for name, value in schema.flat(schema.renamed(dict(config))).items()
    if not (keys[name].free and isinstance(value, str))
  }


def _rows(metrics: Mapping[str, policy.Metric]) -> list[dict[str, Any]]:
  return [
    {'field': field, 'stage': field.partition('.')[0], 'n': metric.count}
    | (_ends(metric) or {})
    | ({'setting': metric.setting} if metric.setting else {})
    for field, metric in metrics.items()
  ]


def _ends(metric: policy.Metric | None) -> dict[str, float] | None:
  if metric is None:
    return None
  return {'value': metric.value, 'low': metric.low, 'high': metric.high}


def plain(value: Any) -> Any:
  """The same in plain values; NaN and infinity are None."""
  if isinstance(value, Mapping):
    return {str(name): plain(item) for name, item in value.items()}
  if isinstance(value, str):
    return value
  if isinstance(value, Iterable):
    return [plain(item) for item in value]
  if hasattr(value, 'item'):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
