# fusion_engine on an NVIDIA GPU, with TensorRT and ONNX Runtime; the libraries come with pip:
#   docker build -f docker/cuda.Dockerfile -t fusion-engine:cuda .
#   docker run --gpus all …
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y g++ make python3-dev python3-pip \
    && rm -rf /var/lib/apt/lists/*
COPY . /source
ENV FUSION_ENGINE_CUDA=ON
RUN /source/docker/wheel.sh /source /wheels

FROM nvidia/cuda:13.0.2-base-ubuntu24.04
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY docker/install.sh /usr/local/bin/install-fusion-engine
RUN --mount=from=build,source=/wheels,target=/wheels \
    install-fusion-engine /wheels gpu /opt/fusion-engine \
    && useradd --create-home --uid 10001 user \
    && install -d -o 10001 /cache /data
ENV PATH=/opt/fusion-engine/bin:$PATH FUSION_ENGINE_CACHE=/cache
USER 10001
WORKDIR /data
ENTRYPOINT ["fusion-engine"]
CMD ["--help"]
