#!/usr/bin/env bash
# RetinaNet-FPN on VOC07+12 trainval from a backbone file, on GPUS GPUs of this machine.
#   VOC=/data/VOCdevkit BACKBONE=backbone.safetensors GPUS=8 ./scripts/finetune_voc.sh [FLAGS ...]
# VOC holds VOC2007/ and VOC2012/. Run it again after an interruption: it goes on where it left off.
set -euo pipefail
: "${VOC:?set VOC to the folder that holds VOC2007 and VOC2012}"
: "${BACKBONE:?set BACKBONE to the file that pretrain_imagenet.sh wrote}"
RECIPE=${RECIPE:-voc-retinanet-paper}
RUN=${RUN:-runs/$RECIPE}

torchrun --standalone --nproc-per-node "${GPUS:-1}" -m detect train "$RECIPE" \
  --backbone "$BACKBONE" \
  --data "$VOC" \
  --out "$RUN" \
  --seed "${SEED:-0}" \
  --train-split 2007:trainval,2012:trainval \
  --val-split 2007:test \
  --optimization.batch-size 16 \
  --optimization.lr 0.01 \
  --optimization.precision auto \
  "$@"
