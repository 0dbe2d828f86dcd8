#!/usr/bin/env bash
# ResNet-50 on ImageNet with FocusedDropout: 300 epochs, batch 256, on GPUS GPUs of this machine.
#   IMAGENET=/data/imagenet GPUS=8 ./scripts/pretrain_imagenet.sh [FLAGS ...]
# IMAGENET holds train/<class>/*.JPEG and val/<class>/*.JPEG. RECIPE=imagenet-resnet50 is the baseline.
# Run it again after an interruption: it goes on where it left off. Further flags override the recipe.
set -euo pipefail
: "${IMAGENET:?set IMAGENET to the folder that holds train/ and val/}"
RECIPE=${RECIPE:-imagenet-resnet50-fd}
RUN=${RUN:-runs/$RECIPE}

torchrun --standalone --nproc-per-node "${GPUS:-1}" -m pretrain train "$RECIPE" \
  --data "$IMAGENET" \
  --out "$RUN" \
  --seed "${SEED:-0}" \
  --optimization.batch-size 256 \
  --optimization.lr 0.1 \
  --optimization.epochs 300 \
  --optimization.milestones 75 150 225 \
  --optimization.weight-decay 1e-4 \
  --optimization.precision auto \
  "$@"
python -m pretrain export --run "$RUN" --format torchvision --out "$RUN/backbone.safetensors"
