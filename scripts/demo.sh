#!/usr/bin/env bash
# The whole product on data it draws: pretrain ResNet-18 with and without FocusedDropout, fine-tune a
# RetinaNet-FPN from each backbone, score both, compare them in one report.
#   ./scripts/demo.sh [FOLDER]      default: demo/ in the repository
# Runs that are finished are not repeated: delete the folder to start anew.
out=${1:-$(dirname "${BASH_SOURCE[0]}")/../demo}
mkdir -p "$out"
out=$(cd "$out" && pwd)
set --  # setup.sh would take the folder for an extra
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
started=$SECONDS

say() { printf '\n== %s (%d s)\n' "$1" $((SECONDS - started)); }

say "drawing toy images"
python scripts/toy_data.py --out "$out/data"

for arm in toy-resnet18 toy-resnet18-fd; do
  say "pretraining $arm"
  python -m pretrain train "$arm" --data "$out/data/imagenet" --out "$out/$arm" \
    --evaluate-every 100
  python -m pretrain export --run "$out/$arm" --out "$out/$arm.safetensors"
done

for arm in toy-resnet18 toy-resnet18-fd; do
  say "fine-tuning a RetinaNet from $arm"
  python -m detect train toy-retinanet --backbone "$out/$arm.safetensors" \
    --data "$out/data/VOCdevkit" --out "$out/retinanet-$arm" --evaluate-every 100 --workers 0
  python -m detect evaluate --run "$out/retinanet-$arm" --data "$out/data/VOCdevkit" \
    --split 2007:test --out "$out/retinanet-$arm/test" --workers 0
done

say "comparing"
python -m detect report "$out/retinanet-toy-resnet18/test" "$out/retinanet-toy-resnet18-fd/test" \
  --out "$out/report.html"
say "done: open $out/report.html"
