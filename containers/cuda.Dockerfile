# An image with both commands for NVIDIA GPUs; they also run without one. Run from the root of the repository:
#   docker build -f containers/cuda.Dockerfile -t ares-cuda .
#   docker run --rm --gpus all -v "$PWD:/data" --user "$(id -u):$(id -g)" ares-cuda train --round 1

FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /ares
COPY scripts/setup_libtorch.py scripts/
# With torch's CUDA libraries, which need about 9 GiB while they are unpacked.
RUN python3 scripts/setup_libtorch.py --cuda yes
COPY . .
# The image's own Rust, instead of the one that rust-toolchain.toml would download.
RUN RUSTUP_TOOLCHAIN="$RUST_VERSION" cargo build --release --locked -p feedback-pipeline -p trainer \
    && strip target/release/collect-feedback target/release/train \
    && rm -r .libtorch/torch-*/torch/include

# The base variant is enough: torch includes its own CUDA libraries, of the same version. The driver comes from the
# host.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10000 ares \
    && install --directory --owner ares /data
# train looks for libtorch where it was built.
COPY --from=build /ares/.libtorch /ares/.libtorch
COPY --from=build /ares/target/release/collect-feedback /ares/target/release/train /usr/local/bin/
USER 10000
WORKDIR /data
CMD ["collect-feedback", "--help"]
