# The relay and the example services in one small image. examples/{reports,orders}/compose.yaml show them at work.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked -p tailwater -p reports -p orders && \
    cp target/release/tailwater target/release/reports target/release/orders /usr/local/bin/

FROM debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* && \
    useradd --system --uid 10001 tailwater && \
    install -d -o tailwater /var/lib/tailwater /mails
COPY --from=build /usr/local/bin/tailwater /usr/local/bin/reports /usr/local/bin/orders /usr/local/bin/
USER tailwater
WORKDIR /var/lib/tailwater
# Positions: keep this directory, or events of the last window are repeated after the container is replaced.
VOLUME /var/lib/tailwater
STOPSIGNAL SIGTERM
ENTRYPOINT ["tailwater"]
CMD ["run"]
