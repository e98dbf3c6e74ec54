# fusion_engine on a CPU: docker build -f docker/cpu.Dockerfile -t fusion-engine:cpu .
FROM python:3.13-slim AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y g++ make \
    && rm -rf /var/lib/apt/lists/*
COPY . /source
ENV FUSION_ENGINE_CUDA=OFF
RUN /source/docker/wheel.sh /source /wheels

FROM python:3.13-slim
COPY docker/install.sh /usr/local/bin/install-fusion-engine
RUN --mount=from=build,source=/wheels,target=/wheels \
    install-fusion-engine /wheels cpu /opt/fusion-engine \
    && useradd --create-home --uid 10001 user \
    && install -d -o 10001 /cache /data
ENV PATH=/opt/fusion-engine/bin:$PATH FUSION_ENGINE_CACHE=/cache
USER 10001
WORKDIR /data
ENTRYPOINT ["fusion-engine"]
CMD ["--help"]
