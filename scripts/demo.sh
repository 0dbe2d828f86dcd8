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
Disk: 0.2 GB in $out, and 6 GB in .venv, which the first start downloads (3 GB).
END
set --  # setup.sh would take the folder for an extra
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
started=$SECONDS
seconds=(3 50 50 115 115 15)  # of the steps, on two idle cores
total=0 done_before=0 number=0
for each in "${seconds[@]}"; do total=$((total + each)); done

clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# A bar for the whole, filled by what the steps before usually take.
step() {
  local width=30 filled bar=
  filled=$((width * done_before / total))
  printf -v bar '%*s' "$filled" ''
  bar=${bar// /#}
  printf -v bar '%-*s' "$width" "$bar"
  printf '\n== [%s] %d/%d %s: about %s; %s so far\n' "${bar// /.}" $((number + 1)) \
    ${#seconds[@]} "$1" "$(clock "${seconds[number]}")" "$(clock $((SECONDS - started)))"
  done_before=$((done_before + seconds[number]))
  number=$((number + 1))
}

step "drawing images"
python scripts/toy_data.py --out "$out/data"

for arm in toy-resnet18 toy-resnet18-fd; do
  step "pretraining $arm"
  python -m pretrain train "$arm" --data "$out/data/imagenet" --out "$out/$arm" \
    --evaluate-every 100
  python -m pretrain export --run "$out/$arm" --out "$out/$arm.safetensors" | head -n 1
done

for arm in toy-resnet18 toy-resnet18-fd; do
  step "a RetinaNet from $arm"
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
