#!/usr/bin/env bash
# The whole product on data it draws: pretrain ResNet-18 with and without FocusedDropout, fine-tune a
# RetinaNet-FPN from each backbone, score both, compare them in one report.
#   ./scripts/demo.sh [FOLDER]      default: demo/ in the repository
# Runs that are finished are not repeated: delete the folder to start over.
out=${1:-$(dirname "${BASH_SOURCE[0]}")/../demo}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cat <<END
The demo, in six steps of about 6 minutes together on two idle cores; no GPU, no data to fetch:
  1 draw images   2-3 pretrain a classifier without, then with FocusedDropout
  4-5 fine-tune a detector from each, and score it   6 compare them in a report
Disk: about 1.2 GB in $out, and 6 GB in .venv, downloaded at the first start.
END
set --  # setup.sh would take the folder for an extra
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
started=$SECONDS
number=0
begun=()  # when each step began

clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# step NAME [TWIN]: a bar for the whole, and how long the step takes if it is like an earlier one.
step() {
  begun[number]=$((SECONDS - started))
  local bar expected=
  printf -v bar '%*s' $((5 * number)) ''
  printf -v bar '%-30s' "${bar// /#}"
  if [ -n "${2:-}" ]; then
    expected=", about $(clock $((begun[$2] - begun[$2 - 1]))) as step $2"
  fi
  number=$((number + 1))
  printf '\n== [%s] step %d of 6 at %s: %s%s\n' "${bar// /.}" $number \
    "$(clock $((SECONDS - started)))" "$1" "$expected"
}

step "drawing images"
python scripts/toy_data.py --out "$out/data"

for arm in toy-resnet18 toy-resnet18-fd; do
  step "pretraining $arm" "$([ $number = 1 ] || echo 2)"
  python -m pretrain train "$arm" --data "$out/data/imagenet" --out "$out/$arm" \
    --evaluate-every 100
  python -m pretrain export --run "$out/$arm" --out "$out/$arm.safetensors" | sed -n 1p
done

for arm in toy-resnet18 toy-resnet18-fd; do
  step "a RetinaNet from $arm" "$([ $number = 3 ] || echo 4)"
  python -m detect train toy-retinanet --backbone "$out/$arm.safetensors" \
    --data "$out/data/VOCdevkit" --out "$out/retinanet-$arm" --evaluate-every 100 --workers 0
  python -m detect evaluate --run "$out/retinanet-$arm" --data "$out/data/VOCdevkit" \
    --split 2007:test --out "$out/retinanet-$arm/test" --workers 0
done

step "comparing"
python -m detect report "$out/retinanet-toy-resnet18/test" "$out/retinanet-toy-resnet18-fd/test" \
  --out "$out/report.html"
printf '\n== [%s] done in %s: open %s\n' "$(printf '#%.0s' {1..30})" \
  "$(clock $((SECONDS - started)))" "$out/report.html"
