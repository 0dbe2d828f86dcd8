#!/usr/bin/env bash
# Detections of a fine-tuned run on VOC2007 test, its mAP, and a report of one or more runs.
#   VOC=/data/VOCdevkit ./scripts/evaluate_voc.sh RUN [RUN ...]      the first run is the baseline
# SPLIT and GPUS may be set; REPORT names the report's file.
set -euo pipefail
: "${VOC:?set VOC to the folder that holds VOC2007}"
[ $# -gt 0 ] || { echo "usage: VOC=DIR $0 RUN [RUN ...]" >&2; exit 2; }
SPLIT=${SPLIT:-2007:test}

folders=()
for run in "$@"; do
  # The lone -- keeps torchrun from reading --run as an abbreviation of its own --run-path.
  torchrun --standalone --nproc-per-node "${GPUS:-1}" -m -- detect evaluate \
    --run "$run" --data "$VOC" --split "$SPLIT" --out "$run/test"
  folders+=("$run/test")
done
python -m detect report "${folders[@]}" --out "${REPORT:-report.html}"
