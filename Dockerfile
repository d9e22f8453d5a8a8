# restore_diff as the command of a container. The weights are inside; restoring needs no network.
#   docker build -t restore_diff .                                     CPU
#   docker build -t restore_diff:cuda --build-arg TORCH=cuda .         NVIDIA GPU; needs the NVIDIA Container Toolkit
#   docker run --rm --network none -u "$(id -u):$(id -g)" -v "$PWD:/data" restore_diff restore -i photos -o restored
#   docker run --rm --gpus all --shm-size 8g -u "$(id -u):$(id -g)" -v "$PWD:/data" restore_diff:cuda train --cfg derain.yaml
# --shm-size: data workers pass crops through /dev/shm, of which a container has 64 MB otherwise; or data.num_workers=0.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && sed 's/ --hash=.*//' requirements.lock > /wheels/constraints.txt

FROM python:${PYTHON}-slim
ARG TORCH=cpu
# The versions are those of requirements.lock. torch comes with CUDA unless its index for CPUs is named.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    case "${TORCH}" in \
        cpu) export PIP_INDEX_URL=https://download.pytorch.org/whl/cpu ;; \
        cuda) ;; \
        *) echo "TORCH must be cpu or cuda, got ${TORCH}" >&2; exit 2 ;; \
    esac \
    && pip install --no-cache-dir --no-deps --constraint /wheels/constraints.txt torch torchvision
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint /wheels/constraints.txt /wheels/*.whl
# Writable for every user that `docker run -u` may name.
ENV HOME=/tmp
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["restore-diff"]
CMD ["--help"]
