#!/bin/sh
# Runs while an image is built: installs requirements/NAME.txt into the virtual environment /opt/venv. The installer comes
# and goes with this one step, so that no layer of the image holds it.
set -eu

name="$1"
folder="$(dirname "$0")"
python3 -m venv /opt/installer
/opt/installer/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --require-hashes \
  -r "$folder/build.txt"
# uv trusts the certificate authorities of the system, where a company adds its own.
UV_NATIVE_TLS=1 /opt/installer/bin/uv pip install --quiet --no-cache --compile-bytecode --python /opt/venv/bin/python \
  --no-deps --require-hashes -r "$folder/$name.txt"
rm -rf /opt/installer

if [ "$name" = worker-vllm-cpu ]; then
  # PyTorch's CUDA libraries must load on a processor as well, but what cuDNN and NVRTC open for a GPU is never opened.
  for nvidia in /opt/venv/lib/python3*/site-packages/nvidia; do
    rm -rf "$nvidia"/cudnn/lib/libcudnn_*.so.* "$nvidia"/cu13/lib/libnvrtc.alt.so.* \
      "$nvidia"/cu13/lib/libnvrtc-builtins*.so.* "$nvidia"/cu13/lib/*.a "$nvidia"/*/include
  done
fi
