# Images to label with, for CPU and for CUDA, on Ray's own images of the version that pyproject.toml pins:
#
#   docker build -t maskmill:cpu .
#   docker build -t maskmill:cuda --build-arg FLAVOR=gpu --build-arg TORCH_INDEX=https://pypi.org/simple .
#
# With the weights of a preset in it, so that no node asks the hub (docs/operations.md says how they are used):
#
#   docker build -t maskmill:photo --build-arg PRESET=photo .
#
# Versions are those of constraints.txt, in which the tests passed. Runs as user ray (1000), never as root.
ARG RAY=2.60.0-py311
ARG FLAVOR=cpu
FROM rayproject/ray:${RAY}-${FLAVOR}

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_VERSION=2.14.1
ARG TORCHVISION_VERSION=0.29.1
WORKDIR /home/ray/maskmill
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch==${TORCH_VERSION}" "torchvision==${TORCHVISION_VERSION}"
COPY --chown=1000:100 pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=1000:100 maskmill maskmill
COPY --chown=1000:100 model model
COPY --chown=1000:100 pipeline pipeline
COPY --chown=1000:100 jobs jobs
RUN pip install --no-cache-dir --constraint constraints.txt '.[photo]'

USER 1000
WORKDIR /home/ray
ARG PRESET=""
RUN if [ -n "${PRESET}" ]; then HF_HOME=/tmp/hub maskmill models --fetch "${PRESET}" --into /home/ray/preset && rm -rf /tmp/hub; fi
ENV OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
CMD ["maskmill", "--help"]
