# syntax=docker/dockerfile:1
# tanl as a service, on CPUs:
#   docker build -t tanl .
#   docker run --rm -p 127.0.0.1:8000:8000 -v tanl:/data -v ./labels.txt:/labels.txt:ro tanl --labels /labels.txt

FROM python:3.12-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The C++ kernels are built here; the image that runs has no compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1
RUN python -m venv /opt/tanl
# torch for CPUs alone, in a layer of its own: the default one brings gigabytes of CUDA. With --build-arg TORCH=auto, or
# cu130, there is one for docker run --gpus all and --device cuda.
ARG TORCH=cpu
RUN pip install "uv>=0.9,<1" \
    && uv pip install --python /opt/tanl/bin/python --torch-backend "$TORCH" "torch>=2.6" torchvision
COPY . /src
RUN uv pip install --python /opt/tanl/bin/python --torch-backend "$TORCH" "/src[serve,heif]"

FROM python:3.12-slim-bookworm
RUN useradd --system --uid 10001 --create-home --home-dir /home/tanl tanl \
    && install --directory --owner=tanl --group=tanl /data
COPY --from=build /opt/tanl /opt/tanl
ENV PATH=/opt/tanl/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TANL_CACHE=/data/cache \
    HF_HOME=/data/models
USER tanl
WORKDIR /data
# The guard, the embedded corpus, and models that are fetched.
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# The first start embeds the corpus, which takes minutes.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30m \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=9).read()"]
# All addresses of the container: who reaches it is for docker run -p to say.
ENTRYPOINT ["tanl", "serve", "--host", "0.0.0.0", "--allow-remote", "--port", "8000", "--guard", "/data/guard"]
CMD ["--help"]
