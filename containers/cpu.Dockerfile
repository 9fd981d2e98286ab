# An image with both commands for the CPU. Run from the root of the repository:
#   docker build -f containers/cpu.Dockerfile -t ares .
#   docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" -e ANTHROPIC_API_KEY ares collect-feedback --round 1

FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /ares
COPY scripts/setup_libtorch.py scripts/
RUN python3 scripts/setup_libtorch.py --cuda no
COPY . .
# The image's own Rust, instead of the one that rust-toolchain.toml would download.
RUN RUSTUP_TOOLCHAIN="$RUST_VERSION" cargo build --release --locked -p feedback-pipeline -p trainer \
    && strip target/release/collect-feedback target/release/train \
    && rm -r .libtorch/torch-*/torch/include

FROM debian:bookworm-slim
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
