# A small image: the binary, certificates, and a user that is not root.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin weir && cp target/release/weir /weir

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/weir --create-home weir
COPY --from=build /weir /usr/local/bin/weir
COPY policies /etc/weir/policies
USER 10001
WORKDIR /var/lib/weir
EXPOSE 8080 8081
# PID 1 gets SIGTERM itself: nothing stands between.
ENTRYPOINT ["/usr/local/bin/weir"]
CMD ["serve"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["curl", "-fsS", "http://127.0.0.1:8081/readyz"]
