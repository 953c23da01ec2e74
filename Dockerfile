# Every image of Penstock, one target each:
#
#   operator        the controllers
#   gateway         the OpenAI endpoint
#   worker          the engine on CPUs
#   worker-example  the same with examples/model in it, for the quickstart without any download
#   worker-gpu      the engine with the CUDA build of torch (its libraries come along; the node brings the driver)
#
# Dependencies are locked with hashes (`make lock`) and installed before the code, so that a change of
# the code rebuilds one small layer. The final stages have no pip and, but for worker-gpu, no compiler,
# run as uid 10001, and write nowhere but /tmp.
#
# Behind a mirror or a proxy: --build-arg PIP_INDEX_URL, PIP_CERT, PIP_FIND_LINKS (pip reads them as
# its environment). Where no registry is reachable: BASE can be any image with CPython 3.11 and its
# venv module as `python3`; hack/images.sh makes one with debootstrap.
ARG BASE=docker.io/library/python:3.11-slim-bookworm


FROM ${BASE} AS installer
ARG PIP_INDEX_URL
ARG PIP_CERT
ARG PIP_FIND_LINKS
# As environment, since not every builder hands arguments on to the stages built on this one.
ENV PIP_INDEX_URL=${PIP_INDEX_URL} PIP_CERT=${PIP_CERT} PIP_FIND_LINKS=${PIP_FIND_LINKS} \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# pip lives in an environment of its own and installs into the one that is shipped.
RUN python3 -m venv /opt/pip \
 && python3 -m venv --without-pip /opt/penstock \
 && rm -f /opt/penstock/lib64
ENV INSTALL="/opt/pip/bin/pip --python /opt/penstock/bin/python3 install --quiet --no-deps"
WORKDIR /src
COPY requirements requirements


FROM installer AS wheel
RUN /opt/pip/bin/pip install --quiet --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY contract contract
COPY operator operator
COPY gateway gateway
COPY worker worker
RUN /opt/pip/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . \
 && $INSTALL dist/*.whl


FROM installer AS operator-dependencies
RUN $INSTALL --require-hashes -r requirements/operator.txt


FROM installer AS gateway-dependencies
RUN $INSTALL --require-hashes -r requirements/gateway.txt


# The gateway's data path as machine code, of the sources in the wheel.
FROM gateway-dependencies AS gateway-compiled
RUN apt-get -qq update \
 && apt-get -qq install --no-install-recommends gcc libc6-dev >/dev/null \
 && { [ -x /usr/local/bin/python3 ] || apt-get -qq install --no-install-recommends python3-dev >/dev/null; }
RUN $INSTALL --target /opt/compiler --require-hashes -r requirements/compiler.txt
COPY --from=wheel /opt/penstock /opt/penstock
RUN site=$(/opt/penstock/bin/python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
 && PYTHONPATH=/opt/compiler /opt/penstock/bin/python3 -m penstock_gateway.build "/compiled$site"


FROM installer AS worker-dependencies
RUN $INSTALL --require-hashes -r requirements/worker.txt


# The CPU build of torch; the package index's default one brings gigabytes of CUDA.
FROM worker-dependencies AS worker-cpu-dependencies
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN if [ -n "${PIP_FIND_LINKS:-}" ]; then index=; else index="--index-url ${TORCH_INDEX}"; fi \
 && $INSTALL $index --require-hashes -r requirements/torch.txt


FROM worker-dependencies AS worker-gpu-dependencies
RUN $INSTALL --require-hashes -r requirements/torch-cuda.txt


# The engine's kernels, for every processor level of this architecture; the right one is chosen at start.
FROM installer AS kernels
RUN apt-get -qq update && apt-get -qq install --no-install-recommends g++ libc6-dev >/dev/null
WORKDIR /src/worker
COPY worker/penstock_worker/__init__.py penstock_worker/
COPY worker/penstock_worker/native penstock_worker/native
RUN python3 -m penstock_worker.native.build --all \
 && chmod -R a+rX,go-w penstock_worker/native/built \
 && cd /opt/penstock/lib/python3*/site-packages && mkdir -p penstock_worker/native \
 && mv /src/worker/penstock_worker/native/built penstock_worker/native/


FROM ${BASE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.source="https://github.com/penstock-dev/penstock" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# What could install software in a running container goes.
RUN rm -rf /usr/share/python-wheels /usr/local/bin/pip* /usr/lib/python3*/ensurepip /usr/local/lib/python3*/ensurepip \
      /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/site-packages/setuptools* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin penstock
ENV PATH=/opt/penstock/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 10001:10001


FROM runtime AS operator
LABEL org.opencontainers.image.title="penstock-operator"
COPY --from=operator-dependencies /opt/penstock /opt/penstock
COPY --from=wheel /opt/penstock /opt/penstock
ENTRYPOINT ["penstock-operator"]


FROM runtime AS gateway
LABEL org.opencontainers.image.title="penstock-gateway"
COPY --from=gateway-dependencies /opt/penstock /opt/penstock
COPY --from=wheel /opt/penstock /opt/penstock
COPY --from=gateway-compiled /compiled /
ENTRYPOINT ["penstock-gateway"]


FROM runtime AS worker-gpu
LABEL org.opencontainers.image.title="penstock-worker-gpu"
# Triton brings its own compiler for the GPU, but builds its bridge to the driver, once per pod, with gcc.
USER 0:0
RUN include=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))') \
 && headers=$([ -e "$include/Python.h" ] || echo python3-dev) \
 && apt-get -qq update \
 && apt-get -qq install --no-install-recommends gcc libc6-dev $headers >/dev/null \
 && rm -rf /var/lib/apt/lists/*
USER 10001:10001
COPY --from=worker-gpu-dependencies /opt/penstock /opt/penstock
COPY --from=kernels /opt/penstock /opt/penstock
COPY --from=wheel /opt/penstock /opt/penstock
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility TRITON_CACHE_DIR=/tmp/triton
ENTRYPOINT ["penstock-worker"]


FROM runtime AS worker
LABEL org.opencontainers.image.title="penstock-worker"
COPY --from=worker-cpu-dependencies /opt/penstock /opt/penstock
COPY --from=kernels /opt/penstock /opt/penstock
COPY --from=wheel /opt/penstock /opt/penstock
ENTRYPOINT ["penstock-worker"]


FROM worker AS worker-example
LABEL org.opencontainers.image.title="penstock-worker-example"
COPY examples/model /opt/penstock/example-model
