# Both commands for the CPU. From the repository's root: docker build -f containers/cpu.Dockerfile -t ares .
# Then: docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" -e ANTHROPIC_API_KEY ares collect-feedback --round 1

FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /ares
COPY scripts/setup_libtorch.py scripts/
RUN python3 scripts/setup_libtorch.py --cuda no
COPY . .
RUN cargo build --release --locked -p feedback-pipeline -p trainer \
    && strip target/release/collect-feedback target/release/train

# The binaries look for libtorch where the build had it: in /ares/.libtorch.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ares \
    && install --directory --owner ares /data
COPY --from=build /ares/.libtorch /ares/.libtorch
COPY --from=build /ares/target/release/collect-feedback /ares/target/release/train /usr/local/bin/
USER ares
WORKDIR /data
CMD ["collect-feedback", "--help"]
