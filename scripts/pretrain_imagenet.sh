#!/usr/bin/env bash
# ResNet-50 on ImageNet with FocusedDropout, then its backbone file, on GPUS GPUs of this machine.
#   IMAGENET=/data/imagenet GPUS=8 ./scripts/pretrain_imagenet.sh [FLAGS ...]
# IMAGENET holds train/<class>/*.JPEG and val/<class>/*.JPEG. ARM= (empty) trains the baseline.
# Run it again after an interruption: it resumes where it left off. Later flags override these.
set -euo pipefail
: "${IMAGENET:?set IMAGENET to the folder that holds train/ and val/}"
RECIPE=imagenet-resnet50${ARM--fd}
RUN=${RUN:-runs/$RECIPE}
focus=()
[ -z "${ARM--fd}" ] || focus=(
  --focus.after layer3
  --focus.gamma 0.3 0.6
  --focus.participation-rate 0.1
  --focus.weight-decay 1e-3
)

torchrun --standalone --nproc-per-node "${GPUS:-1}" -m pretrain train "$RECIPE" \
  --data "$IMAGENET" \
  --out "$RUN" \
  --seed "${SEED:-0}" \
  --network resnet50 \
  --images.size 224 \
  --images.crop resized \
  --images.min-scale 0.08 \
  --optimization.optimizer sgd \
  --optimization.batch-size 256 \
  --optimization.lr 0.1 \
  --optimization.momentum 0.9 \
  --optimization.weight-decay 1e-4 \
  --optimization.epochs 300 \
  --optimization.schedule step \
  --optimization.milestones 75 150 225 \
  --optimization.lr-factor 0.1 \
  --optimization.precision auto \
  ${focus[@]+"${focus[@]}"} \
  "$@"
python -m pretrain export --run "$RUN" --format torchvision --out "$RUN/backbone.safetensors"
