#!/usr/bin/env bash
# The whole of samtune on an example task that the project draws itself: `make demo`.
# Needs `samtune` and its Python on the PATH, and writes only below demo-output/.
set -euo pipefail
cd "$(dirname "$0")/.."
out=demo-output
mkdir -p "$out"

echo "== 1/4 drawing the task: banners on street photos"
python examples/make_banners.py "$out/banners" --images 48 --seed 0

echo "== 2/4 samtune fit $out/banners/train --val $out/banners/val"
samtune fit "$out/banners/train" --val "$out/banners/val" -o "$out/banners.safetensors" \
    --max-minutes 3 --force

echo "== 3/4 samtune evaluate $out/banners/val --adapter $out/banners.safetensors"
samtune evaluate "$out/banners/val" --adapter "$out/banners.safetensors"

echo "== 4/4 samtune segment, one click on a held-out image"
samtune segment "$out/banners/val/images/banner_003.jpg" --point 160,142 \
    --adapter "$out/banners.safetensors" --overlay -o "$out"
python examples/before_after.py "$out/banners/val" "$out/banners.safetensors" "$out/before_after.png"
echo "Look at $out/before_after.png: the same clicks, plain SAM on the left, your adapter on the right."
