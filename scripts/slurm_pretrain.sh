#!/usr/bin/env bash
#SBATCH --job-name=imagenet-resnet50-fd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# ResNet-50 on ImageNet on NODES x GPUS GPUs of a SLURM cluster, from an activated environment:
#   IMAGENET=/shared/imagenet sbatch [--nodes N --gpus-per-node G] scripts/slurm_pretrain.sh [FLAGS ...]
# RUN must be a folder that all nodes share. 120 seconds before the time limit (and before a
# preemption, where the cluster sends the signal then) the training writes a checkpoint and the job
# queues itself again; the next start resumes from there. It ends for good with the training, with
# an error, or with scancel. With sbatch --array=0-4 each task is a training of its own: its number
# is added to SEED, and the sum to the name of RUN.
set -uo pipefail
: "${IMAGENET:?set IMAGENET to the folder that holds train/ and val/, or to the URL of shards}"
RECIPE=${RECIPE:-imagenet-resnet50-fd}
RUN=${RUN:-runs/$RECIPE}
SEED=${SEED:-0}
JOB=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  SEED=$((SEED + SLURM_ARRAY_TASK_ID))
  RUN=$RUN-seed$SEED
  JOB=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID  # the number of one task also stands for all
fi
# Where the nodes of this job meet, and no other job that shares a machine with it. Systems give out
# ports from 32768 on.
PORT=${PORT:-$((10000 + SLURM_JOB_ID % 20000))}
GPUS=${SLURM_GPUS_ON_NODE:-4}
MAX_RESTARTS=3  # of all processes, after one of them failed
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=90  # seconds for the checkpoint; less than --signal gives

# The task of each node. SLURM signals a task, not what the task started, and torchrun would die of
# USR1. So torchrun is told to end instead: it passes TERM on, and waits until the checkpoint is
# written. Then it exits with 1, whatever its trainers did: 143 stands for what was asked.
on_each_node() {
  local torchrun code asked=
  trap '' USR1  # inherited by torchrun, for clusters that signal all processes
  torchrun "$@" &
  torchrun=$!
  trap '[ -n "$asked" ] || kill -TERM "$torchrun"; asked=1' USR1
  trap 'kill -TERM "$torchrun"' TERM
  while wait "$torchrun"; code=$?; kill -0 "$torchrun" 2>/dev/null; do :; done
  wait "$torchrun"  # the last one may have been cut short by a signal
  code=$?
  [ "$code" -eq 0 ] || [ -z "$asked" ] || code=143
  exit "$code"
}

# Else ranks that start again can meet the addresses of the old ones (PyTorch issue 135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
  bash -c "$(declare -f on_each_node); on_each_node \"\$@\"" node \
  --nnodes "$SLURM_JOB_NUM_NODES" \
  --nproc-per-node "$GPUS" \
  --max-restarts "$MAX_RESTARTS" \
  --rdzv-backend c10d \
  --rdzv-endpoint "$head:$PORT" \
  --rdzv-id "$JOB" \
  -m -- pretrain train "$RECIPE" \
  --data "$IMAGENET" \
  --out "$RUN" \
  --seed "$SEED" \
  --resume auto \
  "$@" &
srun=$!
cancelled=
trap 'kill -USR1 "$srun"' USR1  # for --signal=B:USR1; srun passes it on to the tasks
trap 'cancelled=1' TERM         # scancel; the tasks get the signal from SLURM
while wait "$srun"; code=$?; kill -0 "$srun" 2>/dev/null; do :; done
wait "$srun"
code=$?
if [ "$code" -eq 143 ] && [ -z "$cancelled" ]; then
  scontrol requeue "$JOB" || exit 1
fi
exit "$code"
