#!/usr/bin/env bash
# Run a command on every host of a Cloud TPU slice, and again when it is taken away:
#   export TPU_NAME=study ZONE=us-central2-b ACCELERATOR_TYPE=v4-8 RUNTIME_VERSION=tpu-ubuntu2204-base
#   launch/tpu_vm.sh create                     or: queue, to wait in line for one
#   launch/tpu_vm.sh run python -m launch.audit --config=configs/cifar10_shadow.py \
#     --workdir=gs://bucket/study --config.data.path=cifar-10-binary.tar.gz
#   launch/tpu_vm.sh fetch gs://bucket/study runs/study
#   launch/tpu_vm.sh delete
# run: installs this folder on every host where it is not yet, and ends when the command ends
# with 0 (done) or 2 (bad input). After 75 (preempted) or any other end it looks whether the
# slice still stands, makes it anew if not, and gives the same command again.
# SPOT=1             create and queue ask for a spot slice
# QUEUE=1            run makes a lost slice anew by queue, not by create
# PROJECT=name       other than gcloud's own
# MAX_RESTARTS=100   then it gives up
# RETRY_SECONDS=30   between restarts, and between looks at the queue
# SETUP='...'        command that gives a host Python 3.11 or newer, with PYTHON its name
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
retry=${RETRY_SECONDS:-30}
setup=${SETUP:-sudo apt-get update -qq && sudo apt-get install -y -qq python3.11 python3.11-venv}
python=${PYTHON:-python3.11}

fail() { echo "launch/tpu_vm.sh: $*" >&2; exit 2; }
say() { echo "launch/tpu_vm.sh: $*" >&2; }

for name in TPU_NAME ZONE; do
  [[ -n ${!name:-} ]] || fail "set $name, as in: export $name=..."
done
command -v gcloud >/dev/null || fail "gcloud not found; install the Google Cloud CLI"
where=(--zone "$ZONE")
[[ -z ${PROJECT:-} ]] || where+=(--project "$PROJECT")
spot=()
[[ -z ${SPOT:-} ]] || spot=(--spot)

need_type() {
  for name in ACCELERATOR_TYPE RUNTIME_VERSION; do
    [[ -n ${!name:-} ]] || fail "set $name, as in: export $name=..."
  done
}

create() {
  need_type
  gcloud compute tpus tpu-vm create "$TPU_NAME" "${where[@]}" \
    --accelerator-type "$ACCELERATOR_TYPE" --version "$RUNTIME_VERSION" "${spot[@]}"
}

queue() {
  need_type
  gcloud compute tpus queued-resources create "$TPU_NAME" --node-id "$TPU_NAME" "${where[@]}" \
    --accelerator-type "$ACCELERATOR_TYPE" --runtime-version "$RUNTIME_VERSION" "${spot[@]}"
  while [[ $(state) != READY ]]; do
    say "$TPU_NAME waits in the queue"
    sleep "$retry"
  done
}

# READY, PREEMPTED, ...; nothing if there is no such slice.
state() {
  gcloud compute tpus tpu-vm describe "$TPU_NAME" "${where[@]}" --format 'value(state)' 2>/dev/null || true
}

delete() {
  if [[ -n $(state) ]]; then
    gcloud compute tpus tpu-vm delete "$TPU_NAME" "${where[@]}" --quiet
  fi
  if [[ -n ${QUEUE:-} ]]; then
    gcloud compute tpus queued-resources delete "$TPU_NAME" "${where[@]}" --quiet --force
  fi
}

on_all() {
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker=all --command "$1"
}

install() {
  local archive
  archive=$(mktemp -d)/jaxdiff-source.tar.gz
  # `|| return`: errexit is off where run asks whether this succeeded.
  tar -C "$root" -czf "$archive" --exclude=./.venv --exclude=./.git --exclude=./runs . || return
  gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:jaxdiff-source.tar.gz" "${where[@]}" --worker=all || return
  rm -r "$(dirname "$archive")"
  on_all "set -e; command -v $python >/dev/null || { $setup; }; mkdir -p jaxdiff; tar -C jaxdiff -xzf jaxdiff-source.tar.gz; cd jaxdiff; PYTHON=$python JAXDIFF_EXTRAS=tpu launch/local.sh python -c pass"
}

run() {
  [[ $# -gt 0 ]] || fail "no command; try: launch/tpu_vm.sh run python -m launch.audit ..."
  local command output codes restarts=0 installed='' there
  command=$(printf '%q ' "$@")
  while true; do
    codes='' there=1
    if [[ $(state) != READY ]]; then
      say "making $TPU_NAME anew"
      installed=
      delete || true
      # Without room for one now, there may be later.
      if [[ -n ${QUEUE:-} ]]; then queue || there=; else create || there=; fi
    fi
    if [[ -n $there && -z $installed ]] && install; then installed=1; fi
    if [[ -n $installed ]]; then
      # gcloud says only that some host failed: each says its own exit code.
      output=$(on_all "cd jaxdiff; launch/local.sh $command--multihost; echo \"jaxdiff exit \$?\"" | tee /dev/stderr) || true
      codes=$(grep -o 'jaxdiff exit [0-9]*' <<<"$output" | sort -u || true)
      [[ $codes != 'jaxdiff exit 0' ]] || return 0
      ! grep -qx 'jaxdiff exit 2' <<<"$codes" || fail "the command was refused; its line above says why"
    fi
    restarts=$((restarts + 1))
    [[ $restarts -le ${MAX_RESTARTS:-100} ]] || fail "gave up after $((restarts - 1)) restarts"
    say "restart $restarts in $retry s (${codes:-no host answered})"
    sleep "$retry"
  done
}

fetch() {
  [[ $# -eq 2 ]] || fail "fetch what, and where to? fetch gs://bucket/run FOLDER, or fetch runs/NAME FOLDER"
  mkdir -p "$2"
  if [[ $1 == gs://* ]]; then
    gcloud storage rsync --recursive "$1" "$2"
  else
    gcloud compute tpus tpu-vm scp --recurse "$TPU_NAME:jaxdiff/$1/*" "$2" "${where[@]}" --worker=0
  fi
}

verb=${1:-}
shift || true
case $verb in
  create | queue | install | run | fetch | delete) "$verb" "$@" ;;
  *) fail "no verb '$verb'; there is create, queue, install, run, fetch, delete" ;;
esac
