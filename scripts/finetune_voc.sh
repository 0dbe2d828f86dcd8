#!/usr/bin/env bash
# RetinaNet-FPN on VOC07+12 trainval from a backbone file, on GPUS GPUs of this machine.
#   VOC=/data/VOCdevkit BACKBONE=backbone.safetensors RUN=runs/voc-fd GPUS=8 \
#     ./scripts/finetune_voc.sh [FLAGS ...]
# VOC holds VOC2007/ and VOC2012/. Give each backbone a RUN of its own.
# Run it again after an interruption: it resumes where it left off. Later flags override these.
set -euo pipefail
: "${VOC:?set VOC to the folder that holds VOC2007 and VOC2012}"
: "${BACKBONE:?set BACKBONE to the file that pretrain_imagenet.sh wrote}"
: "${RUN:?set RUN to the folder of this run, such as runs/voc-fd}"

torchrun --standalone --nproc-per-node "${GPUS:-1}" -m detect train voc-retinanet-paper \
  --backbone "$BACKBONE" \
  --data "$VOC" \
  --out "$RUN" \
  --seed "${SEED:-0}" \
  --body resnet50 \
  --train-split 2007:trainval,2012:trainval \
  --val-split 2007:test \
  --difficult \
  --group-by-aspect \
  --detector.fpn-channels 256 \
  --detector.trainable-stages 3 \
  --detector.train-sizes 480 512 544 576 608 640 672 704 736 768 800 \
  --detector.test-size 800 \
  --detector.max-size 1333 \
  --detector.norm frozen \
  --detector.head-norm none \
  --detector.box-loss l1 \
  --detector.loss-normalizer image \
  --detector.anchor-scale 4 \
  --detector.score-threshold 0.05 \
  --detector.nms-iou 0.5 \
  --detector.detections-per-image 300 \
  --detector.test-batch-size 8 \
  --augmentation.flip 0.5 \
  --augmentation.colour 1.0 \
  --optimization.optimizer sgd \
  --optimization.batch-size 16 \
  --optimization.lr 0.01 \
  --optimization.momentum 0.9 \
  --optimization.weight-decay 1e-4 \
  --optimization.epochs 18 \
  --optimization.schedule step \
  --optimization.milestones 12 16 \
  --optimization.lr-factor 0.1 \
  --optimization.warmup-steps 500 \
  --optimization.clip-norm 10 \
  --optimization.precision auto \
  "$@"
