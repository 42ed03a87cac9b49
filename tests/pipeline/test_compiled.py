"""What is read of compiled programs, against programs of known content."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.pipeline import compiled
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import programs, topologies


@pytest.fixture(scope='module')
def mesh():
  return mesh_lib.make(2, topologies.devices('v5e:2x2'))


def facts_of(mesh, function, *shapes, spec=mesh_lib.REPLICATED):
  args = [programs.array(mesh, spec, shape, np.float32) for shape in shapes]
  return compiled.facts(jax.jit(function).lower(*args).compile(), mesh)


def test_products_in_loops_count_as_often_as_they_run(mesh):
  def fn(x, y):
    return jax.lax.fori_loop(
      0, 7, lambda i, x: jnp.tanh(jnp.dot(x, y, precision='bfloat16')), x
    )

  found = facts_of(mesh, fn, (256, 512), (512, 512))
  assert found.flops == 7 * 2 * 256 * 512 * 512
  assert found.unbounded == 0 and not found.collectives
  assert found.argument_bytes == 4 * (256 + 512) * 512
  assert found.cycles > 7 * 2 * 256 * 512 * 512 / 2**17


def test_a_loop_of_unknown_length_is_told(mesh):
  def fn(x, n):
    return jax.lax.while_loop(
      lambda s: s[1] < n[0], lambda s: (s[0] @ s[0], s[1] + 1.0), (x, 0.0)
    )[0]

  assert facts_of(mesh, fn, (128, 128), (1,)).unbounded == 1


@pytest.mark.parametrize('stride', [1, 2])
def test_operations_of_convolutions_and_gradients(mesh, stride):
  def fn(x, k):
    def loss(x, k):
      out = jax.lax.conv_general_dilated(
        x, k, (stride, stride), ((1, 1), (1, 1)),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )  # fmt: skip
      return jnp.square(out).sum()

    return jax.grad(loss, argnums=(0, 1))(x, k)

  side, out = 16, 16 // stride
  reached = [
    sum(0 <= o * stride + tap - 1 < side for o in range(out))
    for tap in range(3)
  ]
  each = 2 * 8 * 128 * 256 * sum(reached) ** 2
  found = facts_of(mesh, fn, (8, side, side, 128), (3, 3, 128, 256))
  assert found.flops == pytest.approx(3 * each, rel=0.02)


@pytest.mark.parametrize(
  ('axes', 'kind'),
  [
    (('data',), 'all-reduce'),
    (('ensemble',), 'all-reduce'),
    (('ensemble', 'data'), 'all-reduce'),
  ],
)
def test_collectives_are_told_by_axis(mesh, axes, kind):
  spec = mesh_lib.PER_MODEL_AND_EXAMPLE
  fn = jax.shard_map(
    lambda x: jax.lax.psum(x, axes),
    mesh=mesh,
    in_specs=spec,
    out_specs=jax.sharding.PartitionSpec(
      *(None if axis in axes else axis for axis in mesh.axis_names)
    ),
  )
  found = facts_of(mesh, fn, (2, 64, 128), spec=spec)
  (collective,) = found.collectives
  assert (collective.kind, collective.axes) == (kind, axes)
  assert collective.bytes == 4 * 1 * 32 * 128


def test_groups_are_read_in_all_of_their_forms():
  read = compiled._groups
  assert read('replica_groups={{0,1},{2,3}}, x') == [[0, 1], [2, 3]]
  assert read('replica_groups=[2,2]<=[4], x') == [[0, 1], [2, 3]]
  assert read('replica_groups=[2,2]<=[2,2]T(1,0), x') == [[0, 2], [1, 3]]
  axes = "replica_groups=mesh['a'=2,'b'=1,'c'=2] {"
  assert read(axes + "'c'}, x") == [[0, 1], [2, 3]]
  assert read(axes + "'a'}, x") == [[0, 2], [1, 3]]
  assert read(axes + "'a','c'}, x") == [[0, 1, 2, 3]]
  with pytest.raises(ValueError, match='new way'):
    read("replica_groups=mesh['a':(1)2] {'a'}, x")
  assert read('source_target_pairs={{0,2},{1,3}}') == [[0, 2], [1, 3]]
  assert read('channel_id=1') is None


def test_a_record_comes_back(mesh):
  found = facts_of(mesh, lambda x: x @ x, (128, 128))
  assert compiled.from_json(compiled.as_json(found)) == found


def test_taps_are_counted_as_one_by_one():
  rng = np.random.default_rng(0)
  for _ in range(300):
    size, out, window = rng.integers(1, 9, 3)
    stride, dilated, spread = rng.integers(1, 4, 3)
    low = rng.integers(-3, 5)
    inputs = {place * dilated for place in range(size)}
    want = sum(
      o * stride + w * spread - low in inputs
      for o in range(out)
      for w in range(window)
    )
    got = compiled.taps_inside(size, out, window, stride, low, dilated, spread)
    assert got == want, (size, out, window, stride, low, dilated, spread)
  # A batch along the window.
  assert compiled.taps_inside(2**18, 1, 2**18, 1, 0, 1, 1) == 2**18


def test_a_collective_that_is_overlapped_counts_once(mesh):
  """The compiler repeats it in each part of what it overlaps it with."""
  spec = mesh_lib.PER_MODEL_AND_EXAMPLE

  def fn(x, y):
    gathered = jax.lax.all_gather(x[0], mesh_lib.DATA, tiled=True)
    for _ in range(4):
      y = jnp.tanh(y @ y)
    return gathered.sum() + y[None]

  each = jax.shard_map(
    fn, mesh=mesh, in_specs=(spec, mesh_lib.REPLICATED), out_specs=spec,
    check_vma=False,
  )  # fmt: skip
  args = (
    programs.array(mesh, spec, (2, 4096, 512), np.float32),
    programs.array(mesh, mesh_lib.REPLICATED, (2048, 2048), np.float32),
  )
  found = compiled.facts(jax.jit(each).lower(*args).compile(), mesh)
  (collective,) = found.collectives
  assert (collective.kind, collective.axes) == ('all-gather', ('data',))
  assert collective.bytes == 4 * 4096 * 512


def test_what_is_started_returns_its_operand_too(mesh):
  read = compiled._Reading('', mesh)
  read._collective(
    'collective-permute',
    '(f32[128,64]{1,0}, f32[128,64]{1,0}, u32[], u32[]) '
    'collective-permute-start(%x), channel_id=3, '
    'source_target_pairs={{0,1},{1,0},{2,3},{3,2}}',
    1,
  )
  (collective,) = read.collectives
  assert collective.bytes == 4 * 128 * 64 and collective.axes == ('data',)


def test_two_of_one_channel_count_twice(mesh):
  """The compiler joins all-reduces into few, which may share a channel."""
  read = compiled._Reading('', mesh)
  for shape in ('(f32[10]{0}, f32[20]{0})', 'f32[30]{0}'):
    read._collective(
      'all-reduce',
      f'{shape} all-reduce(%x), channel_id=1, '
      'replica_groups={{0,1},{2,3}}',
      1,
    )
  assert [x.bytes for x in read.collectives] == [120, 120]
  assert {x.axes for x in read.collectives} == {('data',)}


def test_cycles_that_the_compiler_does_not_know_are_none(mesh):
  """It writes the largest number there is."""
  text = """HloModule x
ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %a = f32[8]{0} fusion(%p), calls=%f, backend_config={"estimated_cycles":"7"}
  ROOT %b = f32[8]{0} fusion(%a), calls=%f, backend_config={"estimated_cycles":"18446744073709551615"}
}
%f (q: f32[8]) -> f32[8] {
  ROOT %q = f32[8]{0} parameter(0)
}
"""  # noqa: E501
  read = compiled._Reading(text, mesh)
  read.walk(read.entry, 3)
  assert read.cycles == 21 and read.unestimated == {'fusion': 3}


def test_the_compiler_s_own_kernel_of_attention_is_told():
  """It has neither cycles nor operations: nobody may take it for fast."""
  mesh = mesh_lib.make(1, topologies.devices('v5e:2x2')[:1])
  mesh = mesh_lib.make(4, topologies.devices('v5e:2x2'))

  def fn(q, k, v):
    logits = jnp.einsum('ntd,nsd->nts', q, k)
    return jnp.einsum('nts,nsd->ntd', jax.nn.softmax(logits, axis=-1), v)

  args = [
    programs.array(mesh, mesh_lib.REPLICATED, (8, 512, 40), jnp.bfloat16)
    for _ in range(3)
  ]
  found = compiled.facts(jax.jit(fn).lower(*args).compile(), mesh)
  assert found.flops > 0 or found.unestimated['tpu_custom_call'] == 1
